"""Weights in 4 and 8 bits, statistics for a key-value cache in 8 bits, and quantised weights read back."""
