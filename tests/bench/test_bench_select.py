"""The benchmark of selection: what it runs is right; how long it takes is not asked here."""

from __future__ import annotations

import pytest
import torch

from natsel_bench import select as room
from natsel_bench import ways_to_select as them


def test_quick_runs_every_way_and_counts_are_exact() -> None:
    result = room.bench_select(quick=True)
    assert result["bench"] == "select"
    methods = {r["method"] for r in result["rows"]}
    assert set(them.ways("numpy")) | set(them.PEERS) <= methods
    for row in result["rows"]:
        assert row["ratio"] > 0
        assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]
        if row["method"].startswith("natsel"):
            assert row["exact_count"], row["method"]
    assert {"torch", "python"} <= set(result["versions"])


def test_peers_select_what_natsel_selects_where_there_are_no_ties() -> None:
    tensors = them.make_weights(10**5, torch.float32)
    expected = them.ways("numpy")["natsel, numpy"](tensors)
    for name, peer in them.PEERS.items():
        found = peer(tensors)
        assert all(torch.equal(found[n], expected[n]) for n in tensors), name
    assert torch.equal(tensors["layer0"], them.make_weights(10**5, torch.float32)["layer0"])


def test_a_wrong_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = them.make_weights(10**5, torch.float32)
    monkeypatch.setattr(
        room, "select", lambda *_, **__: {n: torch.ones_like(w).bool() for n, w in tensors.items()}
    )
    with pytest.raises(RuntimeError, match="stable sort"):
        room.check_exact(tensors, ["numpy"])


def test_the_exponent_of_a_power_is_the_power() -> None:
    sizes = [1e3, 1e4, 1e5]
    assert room.exponent(sizes, [s**1.5 for s in sizes]) == 1.5
    assert room.exponent([1e3], [1.0]) is None
    rows = [{"method": "m", "dtype": "d", "size": s, "seconds": 2 * s} for s in sizes]
    assert room.exponents(rows) == {"m, d": 1.0}


def test_the_reading_pass_reads_all_weights() -> None:
    named, read = them.reading_pass()
    tensors = {"w": torch.tensor([[1.0, -2.0], [3.0, -4.0]])}
    expected = 30.0 if named == "numpy.dot" else 10.0
    assert read(tensors) == pytest.approx(expected)
    words = them.words_pass()
    if words is not None:
        bits = tensors["w"].view(torch.int32).sum(dtype=torch.int32)
        assert words(tensors) == int(bits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtypes": ("int8",)}, "dtypes='int8'"),
        ({"sizes": (10,)}, "sizes=10"),
        ({"repeats": 0}, "repeats=0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        room.bench_select(**options)  # type: ignore[arg-type]
