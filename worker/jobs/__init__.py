"""What a process of one device, or of one rank of a collective, measures or checks for the launcher."""
