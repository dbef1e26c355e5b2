"""Where the time of steps went: benchmarks, ledgers and traces of the ranks."""
