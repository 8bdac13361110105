"""Code of modules that is read and made anew: only what runs is read, and it compiles."""

from __future__ import annotations

import importlib.util
import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natsel.communities.surgery.code import compiled, tree_of
from natsel.communities.surgery.counting import count
from natsel.communities.surgery.standards import hold_standard


class Mean(nn.Module):
    def forward(this, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)


class Private(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.__axis = -1

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.__axis)


class Standard(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        rows = F.batch_norm(self.weight[None], None, None, training=True)
        return F.linear(x, rows[0], self.bias)


def _from(path: Path, body: str) -> Callable[..., Any]:
    path.write_text(f"def forward(self, x):\n    return {body}\n")
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = module.forward
    return function


def test_a_module_has_any_name_in_its_own_code() -> None:
    module, x = Mean(), torch.ones(2, 3)
    assert count(module, 6)
    assert module(x).tolist() == [[0.5], [0.5]]


def test_code_that_the_compiler_writes_otherwise_in_a_class_is_left_alone() -> None:
    module = Private()
    assert not count(module, 6)
    assert type(module) is Private


def test_what_a_file_says_since_is_not_what_runs(tmp_path: Path) -> None:
    function = _from(tmp_path / "a.py", "x.mean(-1)")
    assert tree_of(function) is not None
    (tmp_path / "a.py").write_text("def forward(self, x):\n    return self.other(x.mean(-1))\n")
    linecache.checkcache()
    assert tree_of(function) is None


def test_what_new_code_knows_besides_is_found_by_compilers() -> None:
    torch._dynamo.reset()
    layer = Standard(4, 3)
    assert hold_standard(layer, layer.weight, None)
    model = nn.Sequential(layer)
    x = torch.ones(2, 4)
    assert torch.equal(torch.compile(model, backend="eager")(x), model(x))


def test_a_made_function_can_be_read_again() -> None:
    function = Standard.forward
    tree = tree_of(function)
    assert tree is not None
    assert tree_of(compiled(tree, function, "once more")) is not None
