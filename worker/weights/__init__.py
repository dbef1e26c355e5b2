"""A rank's weights on their way from file to device."""
