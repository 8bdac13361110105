"""Which methods are one criterion, and whether a feature escapes the plateau of its score."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("transformers")

from tests.induction import induction

import natsel
from natsel_bench.live.auditing import audited, numbers_of, rows_of
from natsel_bench.live.plateau import pairs_of, perplexity_against_plain, recall_against_plain
from natsel_bench.live.tasks import Document
from natsel_bench.live.ways import Way, parsed


@pytest.fixture(scope="module")
def model():
    return induction()


def texts(count=3, length=40):
    draws = [random.Random(n) for n in range(count)]
    return [Document((0, *draw.choices(range(1, 48), k=length - 1)), (), ()) for draw in draws]


def relations(model, methods, share=0.5):
    ways = [Way(name, share, options) for name, options in map(parsed, methods)]
    ((found, audits),) = audited(model, texts(), ways)
    assert found == share
    rows = rows_of(methods, share, [numbers_of(audit) for audit in audits])
    return {tuple(row["methods"]): row for row in rows}


def test_functions_of_one_score_are_found_out(model):
    names = ("", "+feature=log", "+feature=square", "+feature=-log", "+feature=bump")
    plain, log, square, down, bump = (f"snapkv+window=4{more}" for more in names)
    found = relations(model, [plain, log, square, down, bump, "random"])
    told = {pair: row["relation"] for pair, row in found.items()}
    assert told[log, square] == "one order"
    assert told[plain, log] == "the same survivors"  # the score has ties, its ranks have none
    assert told[log, down] == "upside down"
    assert told[plain, bump] not in ("one order", "the same survivors", "alike")
    assert told[plain, "random"] == "by chance"
    assert found[plain, log]["overlap"]["mean"] == 1
    assert found[log, square]["spearman"]["mean"] == pytest.approx(1)
    assert found[log, down]["spearman"]["mean"] == pytest.approx(-1)


def test_the_overlap_is_that_of_who_really_stays(model):
    """Of 40 entries 20 stay, of which the newest 4 compete under neither method."""
    methods = ["snapkv+window=4", "key-diff+window=4"]
    row = relations(model, methods)[tuple(methods)]
    assert row["chance"] == pytest.approx(16 / 36)
    stay = []
    for name, options in map(parsed, methods):
        prompt = torch.tensor([case.prompt for case in texts()])
        with natsel.live(model, name, natsel.Sparsity(0.5), **options) as live, torch.no_grad():
            with live.paused():
                cache = model(prompt[:, :-1]).past_key_values
            model(prompt[:, -1:], past_key_values=cache)
            stay.append(torch.stack([~live.evicted(layer)[..., :36] for layer in (0, 1)]))
    assert int(stay[0].sum()) == 3 * 2 * 16
    overlap = float((stay[0] & stay[1]).sum() / stay[0].sum())
    assert row["overlap"]["mean"] == pytest.approx(overlap)
    assert row["overlap"]["low"] < overlap < row["overlap"]["high"]


def test_a_share_at_which_nobody_competes_is_refused(model):
    with pytest.raises(ValueError, match="share"):
        relations(model, ["newest", "snapkv+window=32"], share=0.9)


def test_a_feature_is_read_against_its_own_score():
    ways = {
        f"{text} {share}": Way(parsed(text)[0], share, parsed(text)[1])
        for share in (0.5, 0.9)
        for text in ("snapkv", "snapkv+feature=log", "snapkv+feature=bump", "h2o+feature=bump")
    }
    pairs = pairs_of(ways)
    assert [pair.plain for pair in pairs] == 2 * ["snapkv 0.5"] + 2 * ["snapkv 0.9"]
    half, none, full = [True, False] * 8, [False] * 16, [True] * 16
    right = {"snapkv": half, "snapkv+feature=log": half, "snapkv+feature=bump": none}
    parts = {
        way: {"right": right[way[:-4]], "loss": [1 + way.startswith("snapkv+feature=b")] * 16}
        for way in ways
        if not way.startswith("h2o")
    }
    parts["snapkv+feature=bump 0.9"] = {"right": full, "loss": [0.5] * 16}
    log, below, same, escapes = recall_against_plain("after", pairs, {"needle": parts})
    assert (log["verdict"], log["kappa"], log["p_holm"]) == ("the same", 0, 1.0)
    assert below["p_value"] == pytest.approx(2 * 0.5**8)
    assert below["p_holm"] == pytest.approx(4 * below["p_value"])  # of four, the least first
    assert (below["verdict"], escapes["verdict"]) == ("below", "escapes")
    assert (same["difference"], escapes["difference"]) == (0.0, 0.5)
    found = perplexity_against_plain(pairs, parts)
    assert [row["verdict"] for row in found] == ["the same", "below", "the same", "escapes"]
    assert found[1]["ratio"] == pytest.approx(torch.tensor(1.0).exp().item())
