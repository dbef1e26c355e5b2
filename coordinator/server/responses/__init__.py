"""OpenAI's Responses: a thin translation of the one chat request that all protocols share."""
