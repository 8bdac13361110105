"""Silence what reads a population, or cut the population out."""
