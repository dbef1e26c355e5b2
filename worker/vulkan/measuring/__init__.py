"""Times a device's kernels, and how it copies memory."""
