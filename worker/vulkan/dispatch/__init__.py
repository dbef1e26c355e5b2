"""Turns an operation into a dispatch: a kernel, its push constants, a number of workgroups."""
