"""Removing is masking: shown in float64, by what the removal changes."""
