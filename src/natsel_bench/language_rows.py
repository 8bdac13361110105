"""The rows of the bench of language models: one command each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MLP = ("--include", "*mlp*")


@dataclass(frozen=True)
class Folders:
    """What the commands read and write.

    Attributes:
        model: the dense model.
        out: of the run.
        length: tokens in a window.
        samples: windows of calibration, and of evaluation.
        tokens: that recovery reads.
    """

    model: str
    out: Path
    length: int
    samples: int
    tokens: int

    def texts(self) -> list[str]:
        """Return the options that name the texts."""
        return [
            *("--data", str(self.out / "calibration.txt")),
            *("--held-out", str(self.out / "evaluation.txt")),
            *("--length", str(self.length), "--samples", str(self.samples)),
        ]

    def prune(self, name: str, *options: str) -> list[str]:
        """Return the command that prunes into a folder of the run."""
        given = [*options, *self.texts(), "--no-measure"]
        return ["prune", self.model, *given, "--out", str(self.out / name)]

    def recover(self, small: str, name: str) -> list[str]:
        """Return the command that recovers what a row pruned."""
        return [
            *("recover", str(self.out / small), "--teacher", self.model),
            *("--data", str(self.out / "training.txt")),
            *("--held-out", str(self.out / "evaluation.txt")),
            *("--samples", str(self.samples), "--length", str(self.length)),
            *("--tokens", str(self.tokens), "--out", str(self.out / name)),
        ]

    def peer(self, tool: str) -> list[str]:
        """Return the command of another tool."""
        texts = [str(self.out / name) for name in ("calibration.txt", "evaluation.txt")]
        return [tool, self.model, *texts, str(self.length), str(self.samples)]


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        title: what it does, in words.
        arguments: of natsel, from the folders of the run.
        floor: the largest ratio of perplexities that is to be reached; None where none is said.
        aim: the ratio that is hoped for.
        after: the row whose folder it reads, if it reads one.
        tool: runs ``python -m natsel_bench.language_peers`` in place of natsel.
        kind: of the populations that a scorer is compared on with others; "" for other rows.
        scorer: which it is.
    """

    title: str
    arguments: Callable[[Folders], list[str]]
    floor: float | None = None
    aim: float | None = None
    after: str = ""
    tool: bool = False
    kind: str = ""
    scorer: str = ""


ROWS: dict[str, Row] = {
    "neurons-30": Row(
        "30 % of the MLP neurons",
        lambda f: f.prune("neurons-30", "--sparsity", "0.3", *MLP),
        1.28,
        1.20,
    ),
    "neurons-50": Row(
        "50 % of the MLP neurons",
        lambda f: f.prune("neurons-50", "--sparsity", "0.5", *MLP),
        1.60,
        1.45,
    ),
    "neurons-50-obs": Row(
        "50 % of the MLP neurons, by obs",
        lambda f: f.prune("neurons-50-obs", "--sparsity", "0.5", "--scorer", "obs", *MLP),
        1.60,
        1.45,
    ),
    "parameters": Row(
        "80 % of the parameters left, all kinds",
        lambda f: f.prune("parameters", "--budget", "parameters=0.8"),
        1.5,
        1.3,
    ),
    "weights-50": Row(
        "50 % of the single weights",
        lambda f: f.prune("weights-50", "--weights", "0.5"),
        1.45,
        1.35,
    ),
    "weights-50-obs": Row(
        "50 % of the single weights, column by column",
        lambda f: f.prune("weights-50-obs", "--weights", "0.5", "--scorer", "obs"),
        1.45,
        1.35,
    ),
    "weights-2-4": Row(
        "2 of 4 single weights",
        lambda f: f.prune("weights-2-4", "--weights", "2:4"),
        2.4,
        2.2,
    ),
    "recovered": Row(
        "30 % of the MLP neurons, recovered",
        lambda f: f.recover("neurons-30", "recovered"),
        after="neurons-30",
    ),
    "torch-pruning": Row(
        "torch-pruning, GroupTaylor: 30 % of the MLP neurons",
        lambda f: f.peer("torch-pruning"),
        tool=True,
    ),
    "wanda": Row(
        "Wanda by hand: 50 % of the single weights by row",
        lambda f: f.peer("wanda"),
        tool=True,
    ),
}

DEPTH = ("--scorer", "cosine", "--kinds", "branch")
ROWS["blocks"] = Row(
    "7 of 30 blocks (the same share of others), by the cosine",
    lambda f: f.prune("blocks", "--blocks", "--sparsity", repr(7 / 30), *DEPTH),
)
ROWS["branches"] = Row(
    "a quarter of the branches, by the cosine",
    lambda f: f.prune("branches", "--branches", "--sparsity", "0.25", *DEPTH),
)

SCORERS = ("joint", "obs", "wanda", "taylor", "fisher", "magnitude", "random")
"""What orders the populations of a kind, side by side."""
OWN = {"random": "natsel_bench.language_random:random"}


def _ordered(kind: str, scorer: str) -> Row:
    name = f"{kind}s-30-{scorer}"
    given = ("--sparsity", "0.3", "--kinds", kind, "--scorer", OWN.get(scorer, scorer))
    return Row(
        f"30 % of the {kind}s, by {scorer}",
        lambda f: f.prune(name, *given),
        kind=kind,
        scorer=scorer,
    )


for _kind in ("neuron", "head"):
    ROWS |= {f"{_kind}s-30-{scorer}": _ordered(_kind, scorer) for scorer in SCORERS}
