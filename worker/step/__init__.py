"""The parts that change with every step: its numbers, its segments in lock-step, where its time goes."""
