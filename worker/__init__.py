"""One process per device: holds a rank's shard of the weights and runs its part of every step."""
