"""Measurements that a worker makes instead of generating: speeds, collectives, and choices by them."""
