"""Checks that a Vulkan device computes like NumPy: its kernels run the cases of worker/checking/."""
