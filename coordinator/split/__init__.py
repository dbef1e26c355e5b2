"""Splits a model over ranks: heads, columns and rows, and the parts of tensors that follow from them."""
