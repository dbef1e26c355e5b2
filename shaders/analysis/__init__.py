"""What can be told of a compiled kernel without running it. Only tests need this."""
