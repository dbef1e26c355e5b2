"""Kernels in Slang and their committed SPIR-V."""
