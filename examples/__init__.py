"""Small programs to begin with, and those that measure; run from the root of the repository."""
