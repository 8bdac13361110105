"""Callbacks of Lightning's Trainer: evolve, or keep zeros, while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from natsel.common.errors import refuse
from natsel.common.extras import MissingExtraError
from natsel.integrations.lightning.library import library
from natsel.integrations.training.evolving import Evolving, Given
from natsel.integrations.training.holding import Holding

if TYPE_CHECKING:
    Callback: Any = object
else:
    try:
        Callback = library().Callback
    except MissingExtraError:  # whoever only looks at this file need not have it
        Callback = object

SHARDED = ("FSDP", "DeepSpeed", "ModelParallel", "XLAFSDP")
"""How the classes of strategies begin under which no process has the whole model."""


class EvolutionCallback(Evolving, Callback):  # type: ignore[misc]
    """Masses evolve while Lightning trains; populations that stay unfit go extinct.

    Discovery happens when fitting begins, on the LightningModule. Masses evolve with every step of
    its optimizer: after accumulation, clipping and unscaling, and before the weights move. A step
    that a scaler skips evolves nothing. Masses, pressure and survivors are among what the module
    logs; the evolution is in every checkpoint, and taken up from there by ``fit(ckpt_path=...)``.
    Weights in a checkpoint are as they act: any code loads them.

    Args:
        dynamics: a registered law, or a function of the same form.
        fitness: a registered signal, or a function of ``Parts``.
        example_inputs: what the model runs on; None for the module's ``example_input_array``.
        kinds: such as ("neuron", "head"): which populations evolve; None for all.
        discovery: options of :func:`natsel.discover`.
        resume: True to take the evolution up from the checkpoint that fitting goes on from; False
            to begin one anew.
        log_communities: whether each community is logged, too, not only the whole.
        options: of :class:`natsel.Evolution`: constants, ``seed``, ``compare_every``.

    Raises:
        ValueError: if a name or a constant is not allowed; when fitting begins, if the module or
            its Trainer is not.
    """

    _kept: Mapping[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Refuse early what cannot work."""
        check_trainer(trainer)

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Find the communities, make the evolution, and take it up where fitting goes on."""
        kept, self._kept = self._kept, None
        if trainer.ckpt_path is None or self._resume is False:
            kept = None
        elif kept is None:
            refuse(
                "resume",
                self._resume,
                f"a checkpoint with an evolution, which {trainer.ckpt_path} is not: False begins "
                "one anew",
            )
        loaded = self._begin(pl_module, _optimizer_of(trainer, pl_module), _inputs_of)
        if kept is not None:
            self._take_up(kept, loaded, trainer.ckpt_path)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """See whether this step is made."""
        self._step_is_due()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
        """Log masses, pressure and survivors as the module logs its own."""
        self._step_is_over()
        pl_module.log_dict(self.readings(), on_step=True, on_epoch=False)

    def on_validation_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Have the masses of the checkpoint whose weights are validated."""
        self._follow_checkpoint(trainer)

    def on_test_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Have the masses of the checkpoint whose weights are tested."""
        self._follow_checkpoint(trainer)

    def on_predict_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Have the masses of the checkpoint whose weights predict."""
        self._follow_checkpoint(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the evolution."""
        return {} if self._evolution is None else self._evolution.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the evolution up, now or as soon as fitting begins."""
        self._kept = state_dict or None

    def load(self, path: str) -> None:
        """Let the masses, and the weights that they act on, be those of a checkpoint.

        Args:
            path: of a file that Lightning wrote; the module has its other weights already.

        Raises:
            ValueError: if there is no evolution in it, or one of another model.
        """
        kept = torch.load(path, map_location="cpu", weights_only=True)
        state = kept.get("callbacks", {}).get(self.state_key)
        if not state:
            refuse("path", path, "a checkpoint with an evolution")
        self._take_up(state, None, path)

    def _follow_checkpoint(self, trainer: Any) -> None:
        # Lightning takes callbacks up for fitting only; weights act through the masses they had.
        if trainer.ckpt_path is not None and trainer.state.fn != "fit" and self._is_open():
            self.load(trainer.ckpt_path)


class HoldCallback(Holding, Callback):  # type: ignore[misc]
    """Single weights that went stay zero while Lightning trains, and in every checkpoint.

    Args:
        masks: of booleans, by parameter of the module; None for those of a model that natsel made
            sparse (:func:`natsel.masks_of`).

    Raises:
        ValueError: when fitting begins, if the masks do not fit the module.
    """

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        """Refuse early what cannot work."""
        check_trainer(trainer)

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Set what went to zero, and keep it so."""
        self._hold_in(pl_module)

    def on_fit_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Let the weights go; they are zero still."""
        self._let_go()


def check_trainer(trainer: Any) -> None:
    """Refuse a strategy under which parameters are not there as a whole.

    Raises:
        ValueError: naming it, with the remedy.
    """
    name = type(trainer.strategy).__name__
    if name.startswith(SHARDED):
        refuse(
            "strategy",
            name,
            "one in which each process has the whole model, such as 'ddp': train so while it "
            "evolves, extract, then shard the small model",
        )


def _optimizer_of(trainer: Any, module: nn.Module) -> Any:
    mine = {id(parameter) for parameter in module.parameters()}
    found = [
        optimizer
        for optimizer in trainer.optimizers
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"])
    ]
    if len(found) != 1:
        refuse("optimizers", len(found), "one that trains the module; several have no common step")
    return found[0]


def _inputs_of(module: nn.Module) -> Given:
    given = getattr(module, "example_input_array", None)
    if given is None:
        kind = type(module).__name__
        refuse("example_inputs", None, f"what {kind} runs on, or {kind}.example_input_array")
    inputs: Given = given
    return inputs
