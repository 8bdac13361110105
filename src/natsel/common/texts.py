"""How much of a text is read where nothing else is asked."""

LENGTH = 512
"""Tokens in a window."""

SAMPLES = 16
"""Windows of a text."""
