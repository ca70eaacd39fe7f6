"""What comes next: the coming trading days of every ticker of a store."""
