"""Accounts for the time of steps: ledgers, all-reduces and traces of the ranks."""
