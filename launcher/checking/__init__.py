"""Measures for `tplaunch check` what a device is good for: each part apart from others, within its time."""
