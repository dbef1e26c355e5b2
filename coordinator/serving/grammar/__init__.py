"""Structured output: grammars become masks of tokens. See GrammarCompiler in compiler.py."""
