"""How models write reasoning and tool calls, and how these are read back while an answer comes."""
