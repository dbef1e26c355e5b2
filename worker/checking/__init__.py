"""A device proves itself: its kernels on made-up values, against NumPy, which defines what each computes."""
