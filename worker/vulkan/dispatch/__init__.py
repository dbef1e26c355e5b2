"""From an operation to a dispatch: which kernel, its push constants, how many workgroups."""
