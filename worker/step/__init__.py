"""What changes with every step: its numbers, its segments in lock-step, and where its time goes."""
