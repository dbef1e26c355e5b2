"""How text becomes tokens, by kind of vocabulary. What others use of it is coordinator.text.tokenizer."""
