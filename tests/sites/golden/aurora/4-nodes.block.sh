Queue prod of aurora takes 256 nodes or more, not 4. Ask for 256 nodes, or use queue debug-scaling (4 nodes: 1 h), or use queue capacity (4 nodes: 168 h).
