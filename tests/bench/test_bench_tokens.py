"""Tokens of a vision transformer, thinned: rows, pairs, and what is said of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from natsel.models import ViT
from natsel_bench.live import tokens as room
from natsel_bench.live.tokens import FIRST, MERGED, TokenWay, bench_tokens
from natsel_bench.words import to_markdown, words


def test_rows_are_paired_and_told(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 8, 8, generator=generator)
    torch.manual_seed(0)
    model = ViT((3, 8, 8), 4, dim=16, depth=2, heads=2, patch=2, pool="mean").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5, generator=generator)
        right = model(x).argmax(-1)
    splits = SimpleNamespace(test=(x, right))
    monkeypatch.setattr(room, "load_splits", lambda name: splits)
    ways = (TokenWay("merge", 0.5, FIRST, "pairs"), TokenWay("random", 0.5, FIRST, "dropped"))
    monkeypatch.setattr(room, "EQUAL", 1e9)
    sizes = {"images": 40, "repeats": 2, "ways": ways, "network": model, "parts": ("cifar10",)}
    result = bench_tokens(tmp_path, **sizes)
    whole, pairs, dropped = result["rows"]
    assert whole["accuracy"]["mean"] == 1.0
    assert whole["faster"]["median"] == 1.0
    for row in (pairs, dropped):
        lost = row["paired"]["difference"]
        assert lost == pytest.approx(row["accuracy"]["mean"] - 1.0)
        assert lost <= 0
        assert row["images_a_second"] > 0
    assert dropped["paired"]["low"] <= dropped["paired"]["difference"] < 0
    (pair,) = result["against"]
    assert (pair["one"], pair["other"]) == ("pairs, 50%", "dropped, 50%")
    expected = pairs["accuracy"]["mean"] - dropped["accuracy"]["mean"]
    assert pair["difference"] == pytest.approx(expected)
    assert json.loads((tmp_path / "tokens.json").read_text())["rows"] == result["rows"]
    page = to_markdown(words(result))
    assert "| pairs, 50% |" in page
    assert "40 test images, paired" in page
    assert not any(m._forward_hooks for m in model.modules())
    assert MERGED["merge"]
    assert room.WAYS[0].method == "merge"


def test_too_few_images(tmp_path):
    with pytest.raises(ValueError, match=r"images=1 .*whole number >= 2"):
        bench_tokens(tmp_path, images=1)


def test_what_a_class_token_attends_to_is_compared_where_there_is_one(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, 8, 8, generator=generator)
    torch.manual_seed(0)
    model = ViT((3, 8, 8), 4, dim=16, depth=2, heads=2, patch=2, pool="cls").eval()
    splits = SimpleNamespace(test=(x, model(x).argmax(-1)))
    monkeypatch.setattr(room, "load_splits", lambda name: splits)
    sizes = {"images": 20, "repeats": 2, "network": model, "parts": ("cifar10",)}
    result = bench_tokens(tmp_path, pool="cls", **sizes)
    names = {row["name"] for row in result["rows"]}
    assert {way.name for way in (*room.BESIDE_CLASS, *room.ATTENDED)} < names
    assert result["config"]["pool"] == "cls"
    with pytest.raises(ValueError, match=r"pool='max' .*mean"):
        bench_tokens(tmp_path, pool="max")
