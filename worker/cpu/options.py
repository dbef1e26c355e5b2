"""How Numba compiles what belongs to kernels: nothing may raise, for there would be no one to tell."""

OPTIONS = {
    "error_model": "numpy",
    "boundscheck": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
PAUSE = "tplaunch_pause"  # a function that each processor's compiled code has of its own: see compiling.py
