"""Numbers about a model: perplexity, divergence, tasks, and files of requests. It stands on serving."""
