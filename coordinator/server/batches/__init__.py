"""Files that clients hand in, and the batches that are made of them."""
