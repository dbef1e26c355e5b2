"""The coordinator: reads the model file, tokenizes, plans, schedules, samples. It never touches a device."""
