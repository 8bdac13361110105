"""natsel: prune neural networks by natural selection."""

__version__ = "0.1.0"
