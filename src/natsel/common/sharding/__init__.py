"""Tensors that are spread over processes, and what the processes add up together."""
