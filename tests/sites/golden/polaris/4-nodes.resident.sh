Queue prod of polaris takes 10 nodes or more, not 4. Ask for 10 nodes, or use queue debug-scaling (4 nodes: 1 h), or use queue preemptable (4 nodes: 72 h), or use queue capacity (4 nodes: 168 h).
