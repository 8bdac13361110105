"""Fewer experts a token: what a router chose competes, call by call."""
