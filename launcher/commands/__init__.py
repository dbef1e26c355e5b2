"""The commands of tplaunch, and how each shows what it found."""
