"""The coordinator: reads model files, tokenizes, plans, schedules, samples. It never touches a device."""
