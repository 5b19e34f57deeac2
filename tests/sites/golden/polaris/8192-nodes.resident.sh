polaris has 560 nodes, not 8,192. Ask for 496 nodes or fewer.
