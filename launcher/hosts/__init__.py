"""Further hosts of a run: how they join, what they are told, and what the head knows of them."""
