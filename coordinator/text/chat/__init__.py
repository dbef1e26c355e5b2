"""How a conversation becomes the text that a model was trained on: by its own template."""
