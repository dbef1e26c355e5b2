"""Where the time of steps went: ledgers, all-reduces and traces of the ranks."""
