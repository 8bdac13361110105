"""The grid of a plateau study: which methods select, and one job for each network and sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from natsel.auditing.overlap import check_sparsities
from natsel.common.errors import choose, refuse
from natsel.common.numbers import check_whole
from natsel.features import ANCHOR, CLASSES, NINE
from natsel.features.search import OPTIMIZERS
from natsel_papers.importances import check_installed

SPARSITIES = (0.5, 0.6, 0.7, 0.8)
KINDS = ("neuron",)
PEER = "torch-pruning"
"""What the names of a peer's methods begin with."""
RANDOM_SEARCHED = "A5_Log6"
"""The class whose weights a random search of equal budget looks for, too."""
PLATEAU = ANCHOR


@dataclass(frozen=True)
class PlateauGrid:
    """What a plateau study compares.

    Attributes:
        sparsities: rising, each in (0, 1).
        classes: names of feature classes; the plateau's is always there.
        seeds: how many networks, or how many repetitions on one.
        kinds: of the communities that are cut; the others stay whole.
        search_images: samples of the search split.
        held_images: samples of the held-out split, which nothing is chosen on.
        adaptive_images: samples of the validation split, for the adaptive pruner.
        optimizer: of the fusion weights.
        generations: how often it is asked.
        population: candidates each time.
        compensate: also repair the plateau's and the adaptive selection in closed form.
        peers: also select by the importances of torch-pruning (needs the ``bench`` extra).
        device: where networks run, "cpu" or "cuda".
    """

    sparsities: tuple[float, ...] = SPARSITIES
    classes: tuple[str, ...] = NINE
    seeds: int = 3
    kinds: tuple[str, ...] = KINDS
    search_images: int = 2000
    held_images: int = 5000
    adaptive_images: int = 5000
    optimizer: str = "dbo"
    generations: int = 5
    population: int = 8
    compensate: bool = True
    peers: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_sparsities(self.sparsities, "sparsity")
        for name in self.classes:
            choose("classes", name, CLASSES)
        if PLATEAU not in self.classes:
            refuse("classes", ",".join(self.classes), f"a list with {PLATEAU}, the plateau's class")
        choose("optimizer", self.optimizer, OPTIMIZERS)
        least = {"search_images": 8, "held_images": 8, "adaptive_images": 20, "population": 2}
        for argument in (*least, "seeds", "generations"):
            check_whole(argument, getattr(self, argument), least.get(argument, 1))
        if self.peers:
            check_installed()


def check_device(device: str, *, here: bool = True) -> None:
    """Refuse a device that is not there.

    Args:
        device: "cpu" or "cuda".
        here: it has to be on this machine; cells may run on others, which know for themselves.

    Raises:
        ValueError: naming those that are.
    """
    if not here:
        choose("device", device, ("cpu", "cuda"))
        return
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    choose("device", device, there)


@dataclass(frozen=True)
class Cell:
    """One network cut to one sparsity by every method.

    Attributes:
        network: what ``natsel.open_model`` opens; no part of what the cell is, as its weights are.
        digest: of the network's weights: another network is another cell.
        data: name of the data set.
        seed: of splits, searches and splines.
        sparsity: share of the populations that goes.
        classes: and all that follow: see :class:`PlateauGrid`.
    """

    network: str = field(compare=False)
    digest: str
    data: str
    seed: int
    sparsity: float
    classes: tuple[str, ...]
    kinds: tuple[str, ...]
    search_images: int
    held_images: int
    adaptive_images: int
    optimizer: str
    generations: int
    population: int
    compensate: bool
    peers: bool
    device: str

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"network {self.seed} at {self.sparsity:g}"


def cells(grid: PlateauGrid, networks: Sequence[tuple[str, str] | None], data: str) -> list[Cell]:
    """Return one job for each seed and sparsity.

    Args:
        grid: the study.
        networks: (what to open, digest of its weights): one for each seed, or one for all; None
            for a seed whose network failed.
        data: name of the data set.
    """
    shared: dict[str, Any] = asdict(grid)
    sparsities, seeds = shared.pop("sparsities"), shared.pop("seeds")
    return [
        Cell(*network, data, seed, sparsity, **shared)
        for seed in range(seeds)
        if (network := networks[seed % len(networks)]) is not None
        for sparsity in sparsities
    ]
