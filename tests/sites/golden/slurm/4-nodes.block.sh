Site slurm does not say how many cores a node has. Set node.cores in its file or an overlay.
