"""The table of kinds: all that differs between neurons, heads, experts and channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import natsel
from natsel.communities.collect import _name, _role
from natsel.communities.gates.gating import gated_slices
from natsel.communities.kinds import KINDS, Kind, kind_of
from natsel.report.formats import plural
from natsel.selection.counts import bounds_of


def column(attribute):
    return {name: getattr(kind, attribute) for name, kind in KINDS.items()}


def test_the_table():
    within = ["key dimension", "value dimension", "dimension"]
    routed = ["expert group", "expert"]
    assert list(KINDS) == [
        *("neuron", "channel", "head", "query head"),
        *within,
        *(*routed, "filter", "branch", "weight"),
    ]
    assert [n for n, marked in column("marked").items() if marked] == [
        "head",
        "query head",
        *within[:2],
        *routed,
        "filter",
    ]
    assert [n for n, exact in column("exact").items() if not exact] == ["channel"]
    assert [n for n, rounded in column("rounded").items() if not rounded] == [
        "head",
        "query head",
        *within,
        *routed,
        "branch",
    ]
    assert [n for n, plain in column("plain").items() if plain] == ["neuron", "filter"]
    assert [n for n, named in column("named").items() if named == "holder"] == [
        "head",
        "query head",
        *within,
        *routed,
    ]
    assert [n for n, gated in column("gated").items() if gated == "last"] == routed
    assert [n for n, role in column("produced").items() if role == "route"] == routed
    assert [n for n, why in column("unabsorbed").items() if why] == ["channel", *routed, "branch"]


def community(kind, slices=()):
    return natsel.Community("c", kind, 8, natsel.Cost(1, 1.0), tuple(slices))


@pytest.fixture
def gland():
    """A kind of a user's own, for a while."""
    own = Kind("gland", exact=False, gated="last", produced="route", rounded=False, named="holder")
    with KINDS.temporarily({"gland": own}):
        yield own


def test_a_row_is_all_that_a_new_kind_needs(gland):
    part = natsel.communities.Slice
    parts = [part(f"w{i}", 1, torch.arange(8)[:, None], "in") for i in range(2)]
    made = community("gland", parts)
    assert not made.exact
    assert gated_slices(made) == (parts[1],)
    assert _role({"out"}, "gland") == "route"
    assert _name("a.b.weight", ["a.b.weight", "a.c.weight"], "gland") == "a"
    assert bounds_of({"c": 8}, 1, 4, {"c": made})["c"].multiple == 1
    assert plural({"gland"}) == "glands"


def test_a_kind_in_no_row_is_nothing_special():
    made = community("spine")
    assert made.exact
    assert kind_of("spine") == Kind("spine", "spines")
    assert bounds_of({"c": 8}, 1, 4, {"c": made})["c"].multiple == 4
    assert "spine" not in KINDS


def test_a_rule_may_mark_only_what_the_table_says(gland):
    class Doubled(nn.Module):
        def forward(self, x):
            return torch.special.erfcx(x)

    @natsel.rule("aten.special_erfcx.default")
    def marks(run, node, x):
        run.mark(x, "glnd")
        return x

    model = nn.Sequential(nn.Linear(4, 8), Doubled(), nn.Linear(8, 3))
    try:
        with pytest.raises(ValueError, match="kind='glnd' is not allowed: expected one of"):
            natsel.discover(model, torch.zeros(1, 4))

        @natsel.rule("aten.special_erfcx.default")
        def marks_well(run, node, x):
            run.mark(x, "gland")
            return x

        with KINDS.temporarily({"gland": Kind("gland", marked=True)}):
            found = natsel.discover(model, torch.zeros(1, 4))
        assert [(c.kind, c.size) for c in found.values()] == [("gland", 8)]
    finally:
        from natsel.communities.labels.propagation import RULES

        del RULES["aten.special_erfcx.default"]
