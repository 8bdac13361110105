"""The two papers' experiments: `natsel reproduce` and `natsel spectrum`."""
