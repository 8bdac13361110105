"""Numbers in lists and tuples of a module follow as those in attributes do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exactness import assert_exact, found, offered, reasons
from torch import Tensor, nn

import natsel
from natsel.communities.numbers import number, set_number


class Parts(nn.Module):
    """Splits what one layer makes into parts of the sizes that it was made with."""

    def __init__(self, sizes: Any = (4, 6)) -> None:
        super().__init__()
        self.sizes = sizes
        self.a, self.b, self.c = nn.Linear(5, 10), nn.Linear(4, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split(list(self.sizes), dim=-1)
        return self.b(first.relu()) + self.c(second.tanh())


@pytest.mark.parametrize("kind", [list, tuple])
def test_parts_of_a_split_go_by_themselves(kind: type, tmp_path: Path) -> None:
    sizes = kind((4, 6))
    communities = found(Parts(sizes), torch.randn(3, 5))
    assert offered(communities) == {"a": ("neuron", 4), "a#2": ("neuron", 6)}, reasons(communities)
    followed = [[b.attribute for b in c.rebindings] for c in communities.values()]
    assert followed == [["sizes[0]"], ["sizes[1]"]]
    assert_exact(communities, num_random=2)
    survivors = {"a": torch.arange(4) < 3, "a#2": torch.arange(6) > 3}
    small: Any = natsel.extract(communities.model, survivors, communities=communities)
    assert (small.sizes, sizes) == (kind((3, 2)), kind((4, 6)))
    natsel.save(small, tmp_path / "small")
    loaded: Any = natsel.load(tmp_path / "small", model=Parts(kind((4, 6))).double())
    x = torch.randn(2, 5).double()
    assert torch.equal(loaded(x), small(x))


def test_a_number_that_is_not_there_is_none() -> None:
    block = Parts()
    assert [number(block, n) for n in ("sizes[1]", "sizes[2]", "sizes", "width")] == [
        *(6, None),
        *(None, None),
    ]
    set_number(block, "sizes[1]", 5)
    assert block.sizes == (4, 5)
