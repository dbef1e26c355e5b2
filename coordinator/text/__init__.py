"""Turns text into tokens, by kind of vocabulary. Others use coordinator.text.tokenizer."""
