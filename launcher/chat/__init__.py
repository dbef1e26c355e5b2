"""Talking with a model at a terminal: what is typed, what the conversation holds, and how answers show."""
