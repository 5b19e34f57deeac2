"""What one attempt at a task leaves behind: how it ended, what it used, and how it was launched."""
