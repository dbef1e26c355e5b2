"""A Device in NumPy: the reference that every kernel is tested against."""
