"""What commands that measure a model have in common."""
