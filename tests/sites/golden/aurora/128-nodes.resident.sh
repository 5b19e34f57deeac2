Queue prod of aurora takes 256 nodes or more, not 128. Ask for 256 nodes, or use queue debug-scaling (128 nodes: 1 h).
