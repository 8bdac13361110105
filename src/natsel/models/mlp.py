"""A multilayer perceptron."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from natsel.models.checks import positives


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_shape: of one input, any number of axes; they are flattened.
        num_classes: how many outputs.
        hidden: neurons of each hidden layer.

    Shapes:
        ``[B, *in_shape]`` -> ``[B, num_classes]``
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, *, hidden: Sequence[int] = (512, 256)
    ) -> None:
        super().__init__()
        widths = [math.prod(in_shape), *positives("hidden", hidden)]
        layers: list[nn.Module] = []
        for num_in, num_out in itertools.pairwise(widths):
            layers += [nn.Linear(num_in, num_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x.flatten(1))
        return logits
