"""What evolution comes to in large models is arithmetic; what it costs is measured elsewhere."""

import pytest

from natsel_bench.cli import _alike_words, _scale_words
from natsel_bench.scale import WORLD, bench_scale, on_paper


def test_large_models_on_paper():
    rows = {row["model"]: row for row in on_paper(num_ranks=8)}
    row = rows["Llama 3 8B"]
    assert row["populations"] == 32 * (14336 + 8)
    assert row["bytes_per_step"] == 4 * row["populations"]
    assert row["share_of_gradient"] == pytest.approx(5.7e-5, rel=0.01)
    assert row["weights_per_rank"] * 8 == 4 * 8_030_261_248
    words = _scale_words(row)
    assert words.startswith("Llama 3 8B (on paper): 459,008 populations, 1,836,032 bytes a step")


def test_an_unknown_network_is_named():
    with pytest.raises(ValueError, match=r"network='mlp' .*vit"):
        bench_scale(networks=("mlp",))


@pytest.mark.slow
def test_a_row_is_measured_in_processes():
    found = bench_scale(networks=("vit",), quick=True)
    assert [row["way"] for row in found["alike"]] == ["DistributedDataParallel", "fully_shard"]
    for row in found["alike"]:
        assert row["same_survivors"]
        assert row["removed"] > 0
        assert row["masses_difference"] <= 1e-12
        assert max(row["taylor_difference"], row["wanda_difference"]) <= 1e-6  # they are float32
        # Adam makes more of the order in which gradients are added up.
        assert row["small_difference"] <= 1e-11
        assert "the same survivors" in _alike_words(row)
    (row,) = found["rows"]
    assert row["processes"] == WORLD
    assert row["calls_per_step"] == 1
    assert row["bytes_per_step"] == 4 * row["populations"]
    assert row["gradient_bytes"] == 4 * row["parameters"]
    assert 0 < row["share_of_gradient"] < 1e-3
    assert row["quartile_low"] <= row["ratio"] <= row["quartile_high"]
