"""Synthetic run folders: plausible trajectories, every section of the schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import natsel
from natsel.common.files import write_json

Folder = Callable[..., Path]


def make_masses(sizes: dict[str, int], num_records: int = 120, pressure: float = 1.1) -> Any:
    """Run the logistic law on random fitness: the masses that a real run would record."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"steps": torch.arange(num_records, dtype=torch.int64) * 30}
    for name, size in sizes.items():
        fitness = torch.rand(size, generator=generator) * 2
        mass = torch.full((size,), 0.9)
        records = []
        for _ in range(num_records):
            records.append(mass.clone())
            noise = 0.6 * torch.randn(size, generator=generator)
            mass = mass + 0.09 * mass * (1 - mass) * (fitness + noise - pressure) * 2
            mass = mass.clamp(0.0, 0.9999)
            mass[mass < 0.03] *= 0.5
        tensors[f"mass/{name}"] = torch.stack(records)
        tensors[f"fitness/{name}"] = fitness
        tensors[f"alive/{name}"] = records[-1] >= 0.01
    return tensors


def make_result(masses: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a result that agrees with the masses and has every key of the schema."""
    communities = []
    for key in masses:
        if key.startswith("alive/"):
            size, kept = masses[key].numel(), int(masses[key].sum())
            name = key.removeprefix("alive/")
            communities.append(
                {"name": name, "kind": "neuron", "size": size, "extinct": size - kept, "kept": kept}
            )
    count = sum(c["extinct"] for c in communities)
    total = sum(c["size"] for c in communities)
    share = count / total

    def latency(one: float, many: float) -> dict[str, Any]:
        return {
            "1": {"median_ms": one, "low_ms": one * 0.93, "high_ms": one * 1.08},
            "64": {"median_ms": many, "low_ms": many * 0.98, "high_ms": many * 1.03},
        }

    def row(family: str, method: str, sparsity: float, mean: float) -> dict[str, Any]:
        return {
            "family": family,
            "method": method,
            "sparsity": sparsity,
            "mean": mean,
            "low": mean - 0.0027,
            "high": mean + 0.0024,
            "n": 10000,
            "parameters": int(535818 * (1 - sparsity)),
            "macs": int(535040 * (1 - sparsity)),
        }

    sparsities = [0.2, 0.35, 0.5, 0.7, 0.9]
    curves = {
        ("dynamic", "logistic"): [0.9838, 0.9838, 0.9837, 0.9611, 0.62],
        ("one-shot", "magnitude"): [0.9812, 0.962, 0.893, 0.61, 0.31],
        ("one-shot", "taylor"): [0.9821, 0.978, 0.941, 0.72, 0.36],
        ("scratch", "same size"): [0.9836, 0.9833, 0.9829, 0.981, 0.972],
        ("control", "random"): [0.951, 0.87, 0.71, 0.41, 0.19],
    }
    return {
        "schema": 1,
        "kind": "evolve",
        "natsel": "0.1.0",
        "config": {
            "dataset": "mnist",
            "model": "mlp",
            "dynamics": "logistic",
            "fitness": "taylor",
            "epochs": 3,
            "batch_size": 128,
            "learning_rate": 0.001,
            "seed": 0,
            "capacity": None,
            "pressure": 1.1,
        },
        "versions": {"python": "3.11.9", "torch": "2.6.0"},
        "hardware": {"cpu": "Example 9000", "cores": 8, "memory_gb": 31.2, "gpu": None},
        "git": {"commit": "0123abc", "dirty": False},
        "dense": {
            "accuracy": 0.9841,
            "low": 0.9815,
            "high": 0.9864,
            "n": 10000,
            "parameters": 535818,
            "macs": 535040,
            "latency": latency(0.081, 0.512),
        },
        "evolved": {
            "accuracy": 0.984,
            "low": 0.9813,
            "high": 0.9863,
            "n": 10000,
            "parameters": 535818,
            "macs": 535040,
        },
        "extinct": {"share": share, "count": count, "total": total},
        "communities": communities,
        "extracted": {
            "accuracy": 0.9838,
            "low": 0.9811,
            "high": 0.9861,
            "n": 10000,
            "parameters": 239112,
            "macs": 238720,
            "latency": latency(0.079, 0.277),
        },
        "verification": {
            "max_abs_difference": 1.1920928955078125e-07,
            "max_rel_difference": 3.5e-06,
            "tolerance": 1e-05,
            "passed": True,
        },
        "capacity": {"asked": 0.5, "reached": 0.498, "landed": True, "message": "Landed."},
        "table": [
            row(family, method, s, mean)
            for (family, method), means in curves.items()
            for s, mean in zip(sparsities, means, strict=True)
        ],
        "history": [
            {
                "epoch": epoch,
                "loss": 0.4 / epoch,
                "validation_accuracy": 0.97 + 0.004 * epoch,
                "alive": total - epoch * count // 3,
                "pressure": 1.1,
            }
            for epoch in (1, 2, 3)
        ],
        "seconds": {"train": 61.25, "total": 83.5},
    }


@pytest.fixture
def run_folder(tmp_path: Path) -> Folder:
    """Make a run folder; ``change`` edits the result in place before it is written."""

    def make(
        change: Callable[[dict[str, Any]], object] | None = None,
        sizes: dict[str, int] | None = None,
        masses: bool = True,
    ) -> Path:
        tensors = make_masses(sizes or {"layers.0": 512, "layers.2": 256})
        result = make_result(tensors)
        if change is not None:
            change(result)
        (tmp_path / "result.json").write_text(json.dumps(result))
        if masses:
            save_file(tensors, tmp_path / "masses.safetensors")
        return tmp_path

    return make


def make_table() -> list[dict[str, Any]]:
    """Make the rows of a reproduction: two protocols, five families."""
    rows: list[dict[str, Any]] = []
    means = {
        "paper": {
            ("dynamic", "logistic"): [0.9836, 0.9769],
            ("dynamic", "replicator"): [0.9790, 0.9412],
            ("one-shot", "magnitude"): [0.9655, 0.9012],
            ("control", "random"): [0.902, 0.751],
        },
        "matched": {
            ("dynamic", "logistic"): [0.9841, 0.9838],
            ("dynamic", "replicator"): [0.9823, 0.9801],
            ("dynamic", "lotka-volterra"): [0.9828, 0.9811],
        },
    }
    for protocol, methods in means.items():
        for (family, method), values in methods.items():
            for sparsity, mean in zip((0.35, 0.5), values, strict=True):
                compared = family == "dynamic"
                rows.append(
                    {
                        "family": family,
                        "method": method,
                        "protocol": protocol,
                        "sparsity": sparsity,
                        "mean": mean,
                        "low": mean - 0.0005,
                        "high": mean + 0.0005,
                        "n": 5,
                        "uncut": 0.9843 if protocol == "paper" else mean + 0.0001,
                        "seeds": [mean - 0.0003, mean, mean + 0.0003],
                        **(
                            {
                                "p_value": 0.0031 if method == "logistic" else 0.21,
                                "compared_with": "magnitude",
                                "better": method == "logistic",
                            }
                            if compared
                            else {}
                        ),
                    }
                )
    for sparsity, mean in ((0.35, 0.955), (0.5, 0.885)):
        rows.append({"family": "paper", "method": "stated", "sparsity": sparsity, "mean": mean})
    for sparsity, mean in ((0.35, 0.9833), (0.5, 0.9829)):
        rows.append(
            {
                "family": "scratch",
                "method": "same size",
                "sparsity": sparsity,
                "mean": mean,
                "low": mean - 0.0006,
                "high": mean + 0.0006,
                "n": 5,
            }
        )
    return rows


def make_summary() -> dict[str, Any]:
    """Make the summary of a reproduction with every key."""
    return {
        "title": "Pruning as Evolution on MNIST",
        "sentences": [
            "Half of the neurons go at no measured cost; the paper loses ten points.",
            "Five seeds, no fine-tuning.",
        ],
        "config": {"seeds": [0, 1, 2, 3, 4], "epochs": 8},
        "versions": {"torch": "2.6.0"},
        "hardware": {"cpu": "Example 9000"},
        "git": {"commit": "0123abc", "dirty": True},
        "notes": ["The definition of fitness is ours."],
        "test": "paired t-test over seeds, Holm-corrected",
        "claims": [
            {
                "claim": "At 50 % removed, accuracy is at least 98 %",
                "floor": 0.98,
                "aim": 0.984,
                "value": 0.9838,
                "low": 0.9833,
                "high": 0.9843,
                "p_value": 0.0031,
                "verdict": "holds",
            }
        ],
    }


@pytest.fixture
def reproduction_folder(tmp_path: Path) -> Folder:
    """Make a reproduction's folder."""

    def make(summary: bool = True) -> Path:
        (tmp_path / "table.json").write_text(json.dumps(make_table()))
        if summary:
            (tmp_path / "summary.json").write_text(json.dumps(make_summary()))
        return tmp_path

    return make


@pytest.fixture
def audit_folder(tmp_path: Path) -> Folder:
    """Make an audit's folder of some scores of two communities."""

    def make(scores: dict[str, torch.Tensor]) -> Path:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU()]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 2))
        communities = natsel.discover(model, torch.ones(1, 3))
        given = {name: {"0": value, "2": value.flip(0)} for name, value in scores.items()}
        found = natsel.audit(communities, given, [0.25, 0.5])
        write_json(tmp_path / "result.json", {"kind": "audit", "model": "mine", **found.as_dict()})
        return tmp_path

    return make


class Page(HTMLParser):
    """What a page says: printed numbers by key, attributes, text and the figures' data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.figures: list[Any] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if "data-value" in given:
            self.numbers.append((given["data-key"], given["data-value"]))
        self._raw = given.get("type", tag) if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "application/json":
            self.figures.append(json.loads(data))
        elif not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible words, with every run of blanks as one space."""
        return " ".join("".join(self.words).split())


def find(root: Any, key: str) -> Any:
    """Walk a dotted path."""
    for part in key.split("."):
        root = root[int(part)] if isinstance(root, list) else root[part]
    return root


def count_numbers(root: Any) -> int:
    """Count the numbers in parsed JSON."""
    if isinstance(root, dict | list):
        return sum(map(count_numbers, root.values() if isinstance(root, dict) else root))
    return int(isinstance(root, int | float) and not isinstance(root, bool))


@pytest.fixture
def read_page() -> Callable[[Path], Page]:
    """Parse a page from its file."""
    return lambda path: Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def parse_page() -> Callable[[str], Page]:
    """Parse a page from its text."""
    return Page


@pytest.fixture
def assert_numbers_agree() -> Callable[[Page, Any], set[str]]:
    """Compare every printed number with the file; return the keys that were printed."""

    def check(page: Page, root: Any) -> set[str]:
        assert page.numbers
        for key, value in page.numbers:
            assert json.loads(value) == find(root, key), key
        return {key for key, _ in page.numbers}

    return check


@pytest.fixture
def num_numbers() -> Callable[[Any], int]:
    """Count the numbers in parsed JSON."""
    return count_numbers
