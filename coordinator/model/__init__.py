"""Models as frozen data: dimensions and features of its layers, with no architecture's name."""
