local has 1 node, not 8,192. Ask for 1 node or fewer.
