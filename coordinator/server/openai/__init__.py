"""OpenAI's protocol: models, completions and chat completions."""
