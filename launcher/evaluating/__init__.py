"""The parts that commands which measure a model have in common."""
