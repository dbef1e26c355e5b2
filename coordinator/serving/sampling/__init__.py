"""Sampling: what a request asks of its tokens, how the next one is picked, and where its text stops."""
