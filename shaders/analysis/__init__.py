"""Analyses compiled kernels without running them. Only tests need this."""
