"""The programs of a step: a model's layers as segments of operations, cut at the all-reduces."""
