"""Messages name what was wrong on one line, whatever it was."""

import collections
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from natsel.common.errors import LONGEST, brief, choose, first_line, refuse


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (None, "None"),
        (True, "True"),
        ("a\nb", "'a\\nb'"),
        ((), "()"),
        ((1,), "(1,)"),
        ([1, "a"], "[1, 'a']"),
        ({}, "{}"),
        (set(), "set()"),
        ({3}, "{3}"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{'a': {'b': {'c': {...}}}}"),
        (torch.float16, "torch.float16"),
        (torch.Size([2, 3]), "torch.Size([2, 3])"),
        (torch.zeros(2, 3), "<float32 tensor of shape (2, 3)>"),
        (torch.tensor(7), "<int64 tensor of shape ()>"),
        (nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)), "<bfloat16 tensor of shape (4,)>"),
        (np.zeros((2, 2)), "<float64 array of shape (2, 2)>"),
        ([torch.zeros(1)], "[<float32 tensor of shape (1,)>]"),
        (collections.OrderedDict(a=torch.zeros(1)), "{'a': <float32 tensor of shape (1,)>}"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, 6, 7, ... (9)]"),
        (nn.Sequential(nn.Linear(1, 1), nn.ReLU()), "<Sequential>"),
    ],
)  # fmt: skip
def test_a_value_in_words(value, told):
    assert brief(value) == told
    with pytest.raises(ValueError, match="is not allowed") as error:
        refuse("argument", value, "something else")
    assert str(error.value) == f"argument={told} is not allowed: expected something else"


def test_objects_that_hold_tensors_or_cannot_be_shown():
    @dataclasses.dataclass
    class Held:
        x: torch.Tensor

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert brief(Held(torch.zeros(3))) == "<Held>"
    assert brief(Broken()) == "<Broken>"
    assert brief([Broken()]) == "[<Broken>]"


VALUES = st.recursive(
    st.text() | st.integers() | st.floats() | st.binary() | st.just(torch.zeros(40, 40)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(VALUES)
def test_every_message_is_one_short_line_without_a_tensor(value):
    told = brief(value)
    assert len(told) <= LONGEST
    assert len(told.splitlines()) <= 1
    assert "tensor([" not in told


def test_what_a_library_said_is_one_short_line_without_a_tensor():
    error = ValueError(f"expected a mask, got {torch.zeros(3, 3)}")
    assert first_line(error) == "expected a mask, got <tensor>"
    assert len(first_line(RuntimeError("x" * 10000))) <= LONGEST


@pytest.mark.parametrize(
    ("value", "hint"),
    [("mac", "macs"), ("MACS", "macs"), ("param", "parameters"), ("latensy", "latency")],
)
def test_the_nearest_name_is_told(value, hint):
    with pytest.raises(ValueError, match=rf"budget={value!r} .*did you mean '{hint}'"):
        choose("budget", value, ("sparsity", "parameters", "macs", "latency"))


@pytest.mark.parametrize("value", [None, 3, torch.zeros(3), np.zeros(2), ["macs"], "", "zzz"])
def test_what_is_no_name_gets_no_hint(value):
    with pytest.raises(ValueError, match=r"expected one of latency, macs$"):
        choose("budget", value, ("macs", "latency"))
