"""What every room shares: clear errors, optional extras, files written whole."""
