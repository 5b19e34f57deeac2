perlmutter has 1,792 nodes, not 8,192. Ask for 1,792 nodes or fewer.
