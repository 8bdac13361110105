"""What holds the entries of a decoder's key/value cache, and how it is reached."""
