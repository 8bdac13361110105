"""torch-kirigami, used as its README does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.calls import Inputs
from natsel.common.extras import require
from natsel_bench.peers.networks import Hints
from natsel_bench.peers.tools import RATIO, Made, Refused


class TorchKirigami:
    """``Pruner`` with group magnitude and a channel ratio, told nothing else."""

    def prepare(self) -> None:
        """Import the library."""
        self.library: Any = require("torch_kirigami", "bench")
        self.pruning: Any = require("torch_kirigami.pruning", "bench")

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Plan and apply one round over all candidates."""
        try:
            space = self.round(model, inputs)
        except self.library.KirigamiError as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return Made(model, tuple(f"{key}: {reason}" for key, reason in space.exclusions))

    def round(self, model: nn.Module, inputs: Inputs, targets: Iterable[str] | None = None) -> Any:
        """Prune a model in place; return the candidates that there were."""
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        graph = self.library.DependencyGraph.build(model, args=args, kwargs=kwargs)
        pruner = self.pruning.Pruner(model, graph=graph)
        space = pruner.discover_candidates(targets=targets)
        if not space.candidates:
            reasons = dict.fromkeys(reason for _, reason in space.exclusions)
            raise Refused("no candidates: " + ("; ".join(reasons) or "none declared"))
        pruner.prune(
            space,
            budget=self.pruning.ChannelRatio(RATIO),
            strategy=self.pruning.Greedy(self.pruning.GroupMagnitude(p=2)),
        )
        return space

    def reload(self, small: nn.Module, dense: nn.Module, folder: Path) -> nn.Module:
        """Save a checkpoint and restore it into a fresh dense model."""
        self.pruning.save_checkpoint(small, folder / "model.pt")
        loaded: nn.Module = self.pruning.load_checkpoint(dense, folder / "model.pt")
        return loaded.eval()


class TorchKirigamiOneByOne(TorchKirigami):
    """The same, one round per layer: what a user does who names targets by trial.

    A round over everything is refused as a whole where one layer cannot reach the ratio.
    """

    def prune(self, model: nn.Module, inputs: Inputs, hints: Callable[[], Hints]) -> Made:
        """Prune every layer that can be pruned and was not cut together with another yet."""
        before = {name: width for name, m in model.named_modules() if (width := _width(m))}
        left: list[str] = []
        for name, width in before.items():
            if _width(model.get_submodule(name)) != width:
                continue
            try:
                self.round(model, inputs, targets=[name])
            except (Refused, self.library.KirigamiError) as error:
                left.append(f"{name}: {error}")
        if len(left) == len(before):
            raise Refused("; ".join(dict.fromkeys(left)) or "no layer that has a width")
        return Made(model, tuple(left))


def _width(module: nn.Module) -> int:
    """Return how many outputs a layer makes; 0 where it declares none."""
    held = vars(module)
    names = ("out_features", "out_channels", "embedding_dim", "embed_dim")
    return next((int(held[name]) for name in names if name in held), 0)
