"""Models in repositories of Hugging Face: which files of one make a model, and how they come here."""
