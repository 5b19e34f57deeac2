local has 1 node, not 128. Ask for 1 node or fewer.
