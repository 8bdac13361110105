"""Single weights: scores in a stream, the k-th of them, patterns that hardware knows."""

from natsel.single_weights.weights import Weights, weights

__all__ = ["Weights", "weights"]
