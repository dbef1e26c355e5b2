"""The content of GGUF files: metadata, tensors, their types, and the parts of a split model."""
