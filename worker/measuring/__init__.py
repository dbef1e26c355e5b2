"""What a worker measures instead of generating: speeds, collectives, and what follows from them."""
