"""The kernels of processors, in Python that Numba compiles. Only worker/cpu/compiling.py imports them.

Every public function of theirs is a kernel: its parameters are addresses, numbers, and at last `thread` and
`num_threads`, which say what part of the work is meant. Elements are summed in the order that the vectors of
vectors.py give, so that no bit depends on the processor, on the rows of a step or on the number of threads.
"""
