"""How a model comes to fit its devices: shares, contexts, bytes held against memory."""
