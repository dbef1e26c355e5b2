"""The page at /: its files, how it shows answers, and the ranks at work beside them."""
