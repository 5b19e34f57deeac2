lumi has 2,978 nodes, not 8,192. Ask for 1,024 nodes or fewer.
