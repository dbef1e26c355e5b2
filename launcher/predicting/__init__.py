"""Predicts tokens per second of the ways to run a model on several hosts: measured parts, and arithmetic."""
