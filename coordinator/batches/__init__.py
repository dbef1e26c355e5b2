"""Batches of requests in files: their lines, their results, and how they are run and gone on with."""
