"""Jobs of processes that measure or check one device, or one rank of a collective, for the launcher."""
