"""What a GGUF file holds and where: metadata, tensors, their types, and the parts of a split model."""
