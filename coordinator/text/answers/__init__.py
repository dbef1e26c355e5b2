"""Tells reasoning and tool calls in a model's answer apart: which format it speaks, and how that is read."""
