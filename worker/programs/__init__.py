"""What a step computes: a model's layers as segments of operations, cut at the all-reduces."""
