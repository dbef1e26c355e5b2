"""Every buffer of a rank: name, size and place."""
