"""Turns a conversation into the text that a model was trained on, by the model's own template."""
