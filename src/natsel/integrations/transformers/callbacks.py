"""Callbacks of the Trainer of the transformers library: evolve, or keep zeros, while it trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.wrappers import unwrapped
from natsel.integrations.training.evolving import Evolving, Given
from natsel.integrations.training.holding import Holding
from natsel.integrations.transformers.checkpoints import checkpoint_of, read_state, write_state
from natsel.integrations.transformers.examples import example_inputs
from natsel.integrations.transformers.renamed import load_renamed

if TYPE_CHECKING:
    TrainerCallback: Any = object  # its hooks take more than its signatures say
else:
    try:
        from transformers import TrainerCallback
    except ImportError:  # whoever only looks at this file need not have it
        TrainerCallback = object


class EvolutionCallback(Evolving, TrainerCallback):  # type: ignore[misc]
    """Masses evolve while the Trainer trains; populations that stay unfit go extinct.

    Discovery happens when training begins, on the network inside whatever accelerate made of it.
    Masses evolve with every step of the optimizer: after accumulation, clipping and unscaling, and
    before the weights move. A step that a scaler skips evolves nothing. Masses, pressure and
    survivors are in the Trainer's logs; the evolution is in every checkpoint folder
    (``evolution.safetensors``, ``evolution.json``) beside the Trainer's files, and taken up from
    there by ``resume_from_checkpoint`` and ``load_best_model_at_end``. Weights in a checkpoint are
    as they act: any code loads them.

    Args:
        dynamics: a registered law, or a function of the same form.
        fitness: a registered signal, or a function of ``Parts``.
        example_inputs: what the model runs on; None for what its configuration says.
        kinds: such as ("neuron", "head"): which populations evolve; None for all.
        discovery: options of :func:`natsel.discover`.
        resume: True to take the evolution up when the Trainer resumes, from the folder in its
            ``output_dir``; another folder; or False to begin one anew.
        log_communities: whether each community is logged, too, not only the whole.
        options: of :class:`natsel.Evolution`: constants, ``seed``, ``compare_every``.

    Raises:
        ValueError: if a name or a constant is not allowed; when training begins, if the model or
            its Trainer is not.

    Example:
        >>> import natsel.integrations.transformers
        >>> callback = natsel.integrations.transformers.EvolutionCallback(capacity=0.3)
        >>> callback.optimizer is None
        True
    """

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse early what cannot work, and be heard before those who report."""
        check_arguments(args)
        _be_heard_first(self)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        """Find the communities, make the evolution, and take it up where the Trainer resumes."""
        check_arguments(args)
        _be_heard_first(self)
        if not state.global_step:
            self._begin(model, optimizer, _inputs_of)
            return
        ours = self._resume not in (True, False)
        folder = Path(self._resume) if ours else checkpoint_of(args, state.global_step)
        load_renamed(unwrapped(model), folder)
        # Looked for before anything is gated.
        kept = None if self._resume is False else read_state(folder)
        loaded = self._begin(model, optimizer, _inputs_of)
        if kept is not None:
            self._take_up(kept, loaded, folder)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """See whether this step is made."""
        self._step_is_due()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count it if a scaler skipped it."""
        self._step_is_over()

    def on_log(
        self, args: Any, state: Any, control: Any, *, logs: dict[str, Any], **_: Any
    ) -> None:
        """Add masses, pressure and survivors to what the Trainer logs."""
        if self._evolution is None or "loss" not in logs:
            return
        logs.update(self.readings())
        if state.log_history:
            state.log_history[-1].update(self.readings())

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the evolution beside the Trainer's files."""
        if args.should_save and self._evolution is not None:
            folder = checkpoint_of(args, state.global_step)
            write_state(folder, self.evolution, self.readings())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Have the masses that belong to the best model where the Trainer has just loaded it."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint)

    def load(self, folder: str | Path) -> None:
        """Let masses, and the weights that they act on, be those of a checkpoint.

        Args:
            folder: that the Trainer wrote, and loaded the other weights from.

        Raises:
            ValueError: if there is no evolution in it, or one of another model.
        """
        folder = Path(folder)
        load_renamed(self.communities.model, folder)
        self._take_up(read_state(folder), None, folder)


class HoldCallback(Holding, TrainerCallback):  # type: ignore[misc]
    """Single weights that went stay zero while the Trainer trains, and in every checkpoint.

    Args:
        masks: of booleans, by parameter; None for those of a model that natsel made sparse
            (:func:`natsel.masks_of`).

    Raises:
        ValueError: when training begins, if the masks do not fit the model.
    """

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Refuse early what cannot work."""
        check_arguments(args)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, **_: Any
    ) -> None:
        """Set what went to zero, and keep it so."""
        if state.global_step:
            load_renamed(unwrapped(model), checkpoint_of(args, state.global_step))
        self._hold_in(model)

    def on_train_end(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, **_: Any
    ) -> None:
        """Let the weights go; they are zero still."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            load_renamed(unwrapped(model), Path(state.best_model_checkpoint))
        self._let_go()


def check_arguments(args: Any) -> None:
    """Refuse a Trainer whose parameters are not there as a whole.

    Args:
        args: ``TrainingArguments``.

    Raises:
        ValueError: naming the argument, with the remedy.
    """
    remedy = "None: train with DistributedDataParallel (torchrun) while it evolves, extract, then"
    if getattr(args, "deepspeed", None):
        refuse("deepspeed", _shown(args.deepspeed), f"{remedy} give the small model to DeepSpeed")
    if getattr(args, "fsdp", None):
        refuse("fsdp", _shown(args.fsdp), f"{remedy} shard the small model")


def _shown(value: object) -> object:
    return value if isinstance(value, str | bool) else type(value).__name__


def _inputs_of(model: nn.Module) -> Given:
    # Adapters take whatever the model takes that they are in.
    base = getattr(model, "get_base_model", None)
    model = model if base is None else base()
    if not hasattr(model, "config") or not hasattr(model, "main_input_name"):
        kind = type(model).__name__
        refuse("example_inputs", None, f"what a {kind} runs on, as natsel.discover takes it")
    inputs: Mapping[str, Tensor] = example_inputs(model)
    return inputs


def _be_heard_first(callback: TrainerCallback) -> None:
    """Move a callback before those that report, so that they get what it adds to the logs.

    The Trainer puts those that it makes itself first, and gives a callback no hold of the list that
    it is in, except that it is called from there.

    Raises:
        ValueError: if there are two in one Trainer.
    """
    from transformers import DefaultFlowCallback

    handler = sys._getframe(2).f_locals.get("self")
    callbacks = getattr(handler, "callbacks", None)
    if not isinstance(callbacks, list) or callback not in callbacks:
        return  # called by someone else; later ones get the logs all the same
    if sum(isinstance(c, EvolutionCallback) for c in callbacks) > 1:
        refuse("callbacks", "two EvolutionCallbacks", "one: a model has one evolution")
    callbacks.remove(callback)
    first = [isinstance(c, DefaultFlowCallback) for c in callbacks]
    callbacks.insert(first.index(False) if False in first else len(callbacks), callback)
