"""Whether a Vulkan device computes what NumPy computes: its kernels run the cases of worker/checking/."""
