"""What a user sees who types a name: short, true, bounded, and escaped in a notebook."""

import re

import pytest
import torch
from torch import nn

import natsel
from natsel.auditing.result import Audit
from natsel.communities import Community, Cost, Refusal
from natsel.communities.community import Slice
from natsel.evolution.ecology import Landing
from natsel.extraction.verification import Verification
from natsel.selection.survivors import PackedSurvivors, Survivors

LONGEST = 400
MANY = 40


class Deep(nn.Module):
    """More communities than a line or a table holds."""

    def __init__(self, depth):
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 2 + i % 5), nn.ReLU(), nn.Linear(2 + i % 5, 4))
            for i in range(depth)
        )

    def forward(self, x):
        for part in self.parts:
            x = x + part(x)
        return x


@pytest.fixture(scope="module")
def small():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return natsel.discover(model, torch.zeros(1, 4))


@pytest.fixture(scope="module")
def many():
    found = natsel.discover(Deep(MANY), torch.zeros(1, 4))
    assert len(found) == MANY
    return found


def rows(html):
    return re.findall(r"<tr>(.*?)</tr>", html)


def test_communities(small, many):
    assert repr(small) == "Communities(0: 8 neurons)"
    assert repr(many) == (
        "Communities(parts.0.0: 2 neurons, parts.1.0: 3 neurons, parts.2.0: 4 neurons, and 37 "
        "more; 40 communities, 160 populations)"
    )
    assert repr(small.only("neuron")) == repr(small)


def test_a_community_and_its_slices(small):
    community = small["0"]
    assert repr(community) == ("Community(0: 8 neurons, each 8 parameters and 7 MACs in 3 slices)")
    assert sorted(map(repr, community.slices)) == [
        "Slice(in: 2.weight, axis 1, 8 x 1 place)",
        "Slice(out: 0.weight, axis 0, 8 x 1 place)",
        "Slice(tied: 0.bias, axis 0, 8 x 1 place)",
    ]
    experts = Community("moe", "expert", 8, Cost(10, 20.5), (), minimum=2)
    assert repr(experts) == (
        "Community(moe: 8 experts, each 10 parameters and 20 MACs in 0 slices, at least 2 stay)"
    )
    index = torch.arange(12).view(3, 4)
    assert repr(Slice("q.weight", 0, index, "out")) == "Slice(out: q.weight, axis 0, 3 x 4 places)"


def test_survivors(many):
    assert repr(Survivors({"a": torch.tensor([True, False, True])})) == "Survivors(a: 2/3)"
    masks = {n: torch.arange(c.size) < 1 for n, c in many.items()}
    assert repr(Survivors(masks, many)) == (
        "Survivors(parts.0.0: 1/2, parts.1.0: 1/3, parts.2.0: 1/4, and 37 more; 40 of 160 survive)"
    )


def test_packed_survivors_show_what_plain_ones_do():
    packed = PackedSurvivors(
        {f"w{i}": (torch.tensor([5], dtype=torch.uint8), torch.Size([3])) for i in range(9)}
    )
    plain = Survivors({name: packed[name] for name in packed})
    assert repr(packed) == repr(plain)
    assert repr(packed).endswith("and 6 more; 18 of 27 survive)")
    assert packed._repr_html_() == plain._repr_html_()


def test_an_evolution(small):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    evolution = natsel.Evolution(natsel.discover(model, torch.zeros(1, 4)), pressure=1.5)
    model(torch.ones(3, 4)).square().mean().backward()
    evolution.step()
    told = (
        "Evolution(logistic law, taylor fitness; step 1: 8 of 8 populations alive, pressure 1.5{})"
    )
    assert repr(evolution) == told.format("")
    head, line = rows(evolution._repr_html_())
    assert [re.sub("<.*?>", "", cell) for cell in line.split("</td>")][:4] == [
        "0", "neuron", "8", "8",
    ]  # fmt: skip
    assert repr(evolution) in evolution._repr_html_()
    assert "mean mass" in head
    evolution.close()
    assert repr(evolution) == told.format(", closed")


def test_a_prediction(small, many):
    found = natsel.preview(small.model, {"0": torch.arange(8) < 3}, communities=small)
    assert repr(found) == (
        "Prediction(3 of 8 populations survive; parameters: 67 -> 27 (40.3%); "
        "MACs per sample: 56 -> 21 (37.5%))"
    )
    page = found._repr_html_()
    assert "<p>parameters: 67 -&gt; 27 (40.3%)</p>" in page
    assert len(rows(page)) == 2
    masks = {n: torch.arange(c.size) < 1 for n, c in many.items()}
    found = natsel.preview(many.model, masks, communities=many)
    assert "40 of 160 populations survive" in repr(found)
    assert len(repr(found)) < LONGEST


@pytest.mark.parametrize("what", ["communities", "survivors", "prediction", "evolution"])
def test_a_table_in_a_notebook_is_bounded_and_says_so(many, what):
    survivors = Survivors(many.full(), many)
    shown = {
        "communities": lambda: many,
        "survivors": lambda: survivors,
        "prediction": lambda: natsel.preview(many.model, survivors),
        "evolution": lambda: natsel.Evolution(natsel.discover(Deep(MANY), torch.zeros(1, 4))),
    }[what]()
    page = shown._repr_html_()
    assert len(rows(page)) == 32  # the head, thirty, and what was left out
    assert "and 10 more" in page
    assert len(page) < 10_000
    assert len(repr(shown)) < LONGEST


def test_a_table_escapes_whatever_it_holds(small):
    evil = "<script>alert('x')</script>&"
    bad = natsel.Communities(
        small.model,
        small.example_inputs,
        (Community(evil, "neuron", 3, Cost(1, 2.0), ()),),
        (Refusal(evil, 3, evil, evil),),
        pricing=small.pricing,
    )
    for shown in (bad, Survivors({evil: torch.tensor([True])})):
        page = shown._repr_html_()
        assert "<script" not in page
        assert page.count("&lt;script&gt;") >= 1


def test_a_notebook_is_told_what_stays_whole(small):
    page = small._repr_html_()
    assert "left whole: 1 place (2: it is an output of the model)" in page


def test_long_names_do_not_make_long_lines():
    name = "model.layers." * 30 + "up_proj"
    shown = (
        Community(name, "neuron", 3, Cost(1, 2.0), ()),
        Slice(name, 0, torch.zeros(3, 1, dtype=torch.int64), "in"),
        Survivors({f"{i}{name}": torch.tensor([True]) for i in range(6)}),
    )
    for thing in shown:
        assert len(repr(thing)) < 500


def test_a_verification_says_whether_it_passed():
    passed = Verification(1e-7, 2e-7, 1e-16, 1e-9, True, effect=1.0, error=1e-16)
    assert repr(passed) == (
        "Verification(passed: 1.0e-16 of the removal's effect in float64, allowed 1e-09; "
        "max_rel_difference 2.0e-07)"
    )
    failed = Verification(1.0, 2.0, 1.0, 1e-9, False, error=0.5, reason="shapes differ")
    assert repr(failed) == "Verification(NOT passed: shapes differ)"
    open_ = Verification(1.0, 2.0, None, 1e-9, False, precision=None, reason="no float64")
    assert repr(open_) == "Verification(NOT decided: no float64)"


def test_a_landing_says_where():
    landing = Landing.of(0.5, num_carried=5, num_alive=9, num_populations=10, pressure=1.0)
    assert repr(landing).startswith("Landing(NOT landed: 10.0% of the populations went extinct")
    landing = Landing.of(0.5, num_carried=5, num_alive=5, num_populations=10, pressure=1.0)
    assert repr(landing).startswith("Landing(landed: 50.0% of the populations")


def test_results_of_a_model_with_many_communities_are_short(many):
    found = natsel.audit(many, ("l1", "l2"), (0.5,))
    assert isinstance(found, Audit)
    assert repr(found) == (
        "Audit(l1, l2: 2 orders in 160 populations; print it for the outcome in words)"
    )
    assert len(repr(many.pricing)) < LONGEST
    small = natsel.extract(many.model, Survivors({"parts.0.0": torch.tensor([True, False])}, many))
    assert len(repr(natsel.compensation_of(small))) < LONGEST
    assert len(repr(natsel.open_model("mlp"))) < LONGEST
