"""Fits a model to its devices: shares, contexts, bytes held against memory."""
