"""Records of one attempt at a task: its launch, its end, and its use of resources."""
