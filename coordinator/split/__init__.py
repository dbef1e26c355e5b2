"""Who holds what: heads, columns and rows given to ranks, and the parts of tensors that follow from it."""
