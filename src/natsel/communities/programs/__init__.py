"""A model as a program: every size a number in a graph, that can follow."""
