Queue prod of aurora takes 256 nodes or more, not 1. Ask for 256 nodes, or use queue debug (1 node: 1 h), or use queue capacity (1 node: 168 h).
