"""A mass multiplies the weights that read its population, where forward reads them."""
