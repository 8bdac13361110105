"""Branches: what is added to a residual stream, found in the graph and taken out of the modules."""
