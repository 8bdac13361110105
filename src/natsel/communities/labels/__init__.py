"""Whose is every element: a graph run on labels instead of data."""
