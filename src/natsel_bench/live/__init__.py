"""What a thinned cache still knows: recall, perplexity, bytes and time against the whole one."""
