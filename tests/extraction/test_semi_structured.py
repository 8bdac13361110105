"""2:4 layers in the format of an accelerator: which, and what is said where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from natsel.extraction import semi_structured as room


def network(kind: torch.dtype = torch.float16) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4)).to(kind)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 2.0, 0.0, 3.0, 0.0, 0.0]] * 4))
    return model


def test_a_processor_has_none_and_says_so_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^model='on cpu' .*8\.0 .*format$"):
        room.semi_structured(network())


def test_only_layers_with_two_zeros_in_four_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []

    def packed(weight: Tensor) -> Tensor:
        given.append(weight)
        return weight * 1

    monkeypatch.setattr(room, "_has_format", lambda device: True)
    monkeypatch.setattr(room, "_packed", packed)
    model = network()
    found = room.semi_structured(model)
    assert len(given) == 1
    assert torch.equal(given[0], model[0].weight)  # type: ignore[index]
    assert not found[0].weight.requires_grad  # type: ignore[index]
    assert model[0].weight.requires_grad  # type: ignore[index]
    with pytest.raises(ValueError, match="float32"):
        room.semi_structured(network(torch.float32))
    with pytest.raises(ValueError, match=r"NM\(2, 4\)"):
        room.semi_structured(nn.Linear(4, 4).half())


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0], True),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0], True),
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0], True),
        ([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], False),
        ([1.0, 0.0, 1.0, 0.0, 1.0, 0.0], False),
    ],
)
def test_the_pattern_is_read_off_the_weights(row: list[float], fits: bool) -> None:
    assert room.is_two_of_four(torch.tensor([row, row])) is fits
