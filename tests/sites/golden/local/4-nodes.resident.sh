local has 1 node, not 4. Ask for 1 node or fewer.
