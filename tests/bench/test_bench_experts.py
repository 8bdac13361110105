"""Experts of small Mixtrals: what is measured is kept, resumed, paired and told in words."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests import language

from natsel_bench import experts as room
from natsel_bench.experts import bench_experts
from natsel_bench.language_models import byte_tokens, small_mixtral, train
from natsel_bench.words import words

TINY = {"layers": 1, "width": 16, "inner": 16, "heads": 2, "experts": 4, "chosen": 2}


@pytest.fixture
def text(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(room, "small_mixtral", partial(small_mixtral, **TINY))
    path = tmp_path / "text.txt"
    path.write_text(language.text(0, 2000))
    return path


def test_rows_are_measured_on_the_same_windows_and_resumed(text, tmp_path, monkeypatch):
    sizes = {"seeds": 1, "length": 16, "samples": 8, "steps": 2}
    sizes["only"] = ("reap", "random", "router-token", "router-threshold")
    with pytest.raises(ValueError, match=r"budget=.* leaves each token its floor of 1"):
        bench_experts(text, tmp_path / "wrong", **sizes)  # of two, three quarters cannot go
    fewer = {**room.LIVE, "router-token": ("router", "token", (0.5,))}
    monkeypatch.setattr(room, "LIVE", fewer)
    result = bench_experts(text, tmp_path / "out", **sizes)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [
        *("whole", "reap", "random", "router-token 0.5"),
        *(f"router-threshold {level}" for level in (0.25, 0.5, 0.75)),
    ]
    assert rows["router-token 0.5"]["share"] == 0.5
    assert rows["random"]["against"]["name"] == "reap"
    assert rows["reap"]["ratio"]["n"] == 8
    whole = rows["whole"]["perplexity"]
    assert rows["reap"]["ratio"]["mean"] * whole == pytest.approx(rows["reap"]["perplexity"])
    told = words(result)
    assert [line[0] for line in told.rows] == list(rows)
    assert "1 models of 1 layers with 4 experts, 2 for a token" in told.sentences[0]

    def again(*_):
        raise AssertionError("a kept model is not measured again")

    monkeypatch.setattr(room, "_losses", again)
    assert bench_experts(text, tmp_path / "out", resume=True, **sizes)["rows"] == result["rows"]


def test_training_balances_the_load_and_is_deterministic():
    pytest.importorskip("transformers")
    tokens = byte_tokens(language.text(0, 200))
    models = [small_mixtral(**TINY) for _ in range(2)]
    losses = [train(m, tokens, steps=3, batch_size=2, length=16) for m in models]
    assert losses[0] == losses[1]
    first, second = (m.state_dict() for m in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    unbalanced = small_mixtral(**TINY)
    unbalanced.config.output_router_logits = False
    train(unbalanced, tokens, steps=3, batch_size=2, length=16)
    router = "model.layers.0.mlp.gate.weight"
    assert not torch.equal(first[router], unbalanced.state_dict()[router])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"only": ("reaper",)}, "did you mean 'reap'"),
        ({"share": 1.0}, "a share in"),
        ({"seeds": 0}, "seeds=0"),
        ({"samples": 10**6}, "characters"),
    ],
)
def test_what_is_not_allowed_is_named(text, tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        bench_experts(text, tmp_path / "out", **options)
