"""Runs programs on processors: kernels that LLVM compiles, over the weights as the file's types hold them."""
