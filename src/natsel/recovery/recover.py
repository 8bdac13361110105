"""Let a pruned model learn from the one that it was cut from what it lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.batches import Data, gathered, is_causal, reread
from natsel.common.calls import tensors_of_inputs
from natsel.common.errors import refuse, refuse_together
from natsel.common.progress import Progress, silent
from natsel.common.vocabulary import check_tokens
from natsel.communities.copies import copied
from natsel.quality import Losses, losses
from natsel.recovery.fresh import fresh
from natsel.recovery.loop import Keeping, Samples, places_of, train
from natsel.recovery.low_rank import adapted, merged
from natsel.recovery.objective import Objective, compare, on_device_of
from natsel.recovery.settings import Settings
from natsel.recovery.state import digest
from natsel.recovery.together import Together
from natsel.recovery.zeros import said, zeros_of

LOOKS = 5
"""How often held-out data are measured on the way, if nothing else is asked."""

LARGEST_BATCH = 32
"""Samples of a step, unless they are counted."""

PLACES = 512
"""Places that run together, unless rows are counted: tokens of windows, or images."""


@dataclass(frozen=True, eq=False, repr=False)
class Recovered:
    """A model that won back what it lost, and what it took.

    Attributes:
        model: the recovered model, in evaluation mode.
        settings: of the training.
        curve: a row a step: its loss and the parts of it, and how many places (tokens, images)
            were read by then; ``held_out`` in some, the mean held-out loss in nats.
        control: the curve of the control; None without.
        losses: on the held-out data, one number a sample, of "before", "after", "teacher" and
            "control"; empty without such data.
        places: how many places were read: tokens of windows, or images.
        notes: what was found and decided on the way, in words.
        unit: what a place is, in words: "tokens", "samples" or "places".
    """

    model: nn.Module
    settings: Settings
    curve: list[dict[str, Any]]
    control: list[dict[str, Any]] | None
    losses: Mapping[str, Losses]
    places: int
    notes: tuple[str, ...]
    unit: str = "places"

    @property
    def won_back(self) -> float | None:
        """Share of the held-out loss that pruning cost and recovery won back; None if unknown.

        1 is as good as the teacher, more is better than it: labels teach what it does not know.
        """
        found = {name: _mean(each) for name, each in self.losses.items()}
        if not found or found["before"] <= found["teacher"]:
            return None
        return (found["before"] - found["after"]) / (found["before"] - found["teacher"])

    def __repr__(self) -> str:
        return f"Recovered({type(self.model).__name__}; {self.summary().splitlines()[0]})"

    def summary(self) -> str:
        """Return what was done and what came of it, as text."""
        steps = self.settings.steps
        lines = [f"{steps:,} step{'' if steps == 1 else 's'} over {self.places:,} {self.unit}"]
        if self.losses:
            each = ", ".join(f"{name} {_mean(x):.4f}" for name, x in self.losses.items())
            lines.append(f"held-out loss: {each}")
        if self.won_back is not None:
            lines.append(f"won back: {self.won_back:.1%} of what pruning cost")
        return "\n".join([*lines, *self.notes])


def recover(
    small: nn.Module,
    teacher: nn.Module,
    *,
    data: Data,
    tokens: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    learning_rate: float = 3e-4,
    warmup: float = 0.1,
    kl: float = 1.0,
    cross_entropy: float = 0.0,
    blocks: float = 0.0,
    temperature: float = 1.0,
    clip: float = 1.0,
    seed: int = 0,
    lora: int | None = None,
    keep_zeros: bool | None = None,
    autocast: str | None = None,
    rows: int | None = None,
    held_out: Data | None = None,
    look_every: int | None = None,
    control: bool = False,
    checkpoint: str | Path | None = None,
    save_every: int | None = None,
    accelerator: Any = None,
    progress: Progress = silent,
) -> Recovered:
    r"""Let a small model learn from the dense one, and return what it became.

    The loss of a step is :math:`w_1 T^2 KL(p \| q) + w_2 CE(q) + w_3 B`, means over all places
    that count: the divergence of the small model's distribution :math:`q` from the teacher's
    :math:`p` at temperature :math:`T`, the cross-entropy of the labels, and the squared distance
    of block outputs relative to the teacher's, where both have blocks of one width. AdamW without
    weight decay; the learning rate rises, then falls as a cosine. Logits are made in chunks.

    Args:
        small: the model; not changed. It learns where it is: the device is its own.
        teacher: the dense model; of the same outputs.
        data: batches; labels are optional. All of it is held in memory.
        tokens: how many to read (tokens of windows, or images), all data once by default. Of
            windows of one length never more, and less by no more than a window: the last step has
            fewer of them.
        steps: of the optimizer, in place of ``tokens``.
        batch: samples (windows, images) of a step; by default as many as make 512 places, one window
            of 512 tokens, but no more than 32.
        learning_rate: at its highest.
        warmup: share of the steps in which it rises.
        kl: weight of the divergence from the teacher.
        cross_entropy: weight of the labels.
        blocks: weight of the block outputs.
        temperature: of the divergence.
        clip: greatest norm of the gradient.
        seed: of everything that is left to chance.
        lora: rank of adapters (of the peft library) that are trained in place of the weights, and
            merged into them at the end.
        keep_zeros: weights that are exactly zero stay it: True for all, False for none; by
            default where single weights were removed, or more than a fifth of a tensor is zero.
        autocast: "bfloat16" or "float16": the precision of the products; None for the model's.
        rows: samples that run together; as many as 512 places by default, a whole step where a
            sample is one place.
        held_out: batches with labels to measure on, before, on the way and after.
        look_every: steps between two measurements on the way; a fifth of all by default.
        control: also train a model of the same shape from its first weights, in the same way.
        checkpoint: a folder: the state is written there every so often and when interrupted, and
            taken up from there; the end is the same to the bit.
        save_every: steps between two checkpoints; five minutes by default.
        accelerator: an ``accelerate.Accelerator``, made by each process of ``accelerate launch``:
            the small model goes to its device, its precision is taken where ``autocast`` is None,
            and the processes share each step; the first one writes checkpoints. All of them
            return the same. None for this process alone.
        progress: called after every step.

    Returns:
        The recovered model, its curve, and the losses on held-out data.

    Raises:
        ValueError: if an argument is not allowed, the models do not fit together, or the
            checkpoint is of another run.
        NonFiniteError: if the loss becomes NaN or infinite; the last checkpoint stays.
        MissingExtraError: if adapters are asked and the peft library is not installed.
        OSError: if a checkpoint cannot be written.

    Example:
        >>> import natsel
        >>> _ = torch.manual_seed(0)
        >>> teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> small = natsel.prune(teacher, torch.ones(1, 4), natsel.Sparsity(0.5)).small
        >>> x = torch.randn(64, 4)
        >>> done = natsel.recover(small, teacher, data=[(x,)], steps=40, batch=16, learning_rate=0.01)
        >>> done.curve[-1]["kl"] < 0.5 * done.curve[0]["kl"]
        True
    """  # noqa: E501
    together = Together(accelerator)
    data = reread(data)
    held = None if held_out is None else reread(held_out, "held_out")
    for model in (small, teacher):
        check_tokens(model, data, "data")
        check_tokens(model, held or (), "held_out")
    samples = _samples(small, data)
    if not any(p.requires_grad for p in small.parameters()):
        refuse("small", "a model of frozen parameters", "some that require a gradient")
    student = together.placed(copied(small, {}))
    settings = Settings(
        steps=1,
        batch=1 if batch is None else batch,
        rows=1,
        learning_rate=learning_rate,
        warmup=warmup,
        kl=kl,
        cross_entropy=cross_entropy,
        blocks=blocks,
        temperature=temperature,
        clip=clip,
        seed=seed,
        lora=lora,
        autocast=together.precision if autocast is None else autocast,
    )
    _check(settings, samples)
    inputs, labels = samples.rows(torch.zeros(1, dtype=torch.long))
    objective = compare(student, teacher, on_device_of(student, inputs), labels, settings)
    if batch is None:
        usual = min(LARGEST_BATCH, max(1, PLACES // objective.places))
        settings = replace(settings, batch=_within(usual, tokens, samples, objective))
    settings = _scheduled(settings, samples, objective, tokens, steps, rows)
    objective = Objective(teacher, objective.heads, objective.pairs, objective.places, settings)
    masks = zeros_of(small, keep_zeros)
    if masks and lora is not None:
        told = {"lora": lora, "keep_zeros": keep_zeros}
        refuse_together(told, "keep_zeros=False: adapters fill what is zero when they are merged")
    every = max(1, settings.steps // LOOKS) if look_every is None else look_every
    if type(every) is not int or every < 1:
        refuse("look_every", look_every, "a whole number >= 1, or None")
    if save_every is not None and (type(save_every) is not int or save_every < 1):
        refuse("save_every", save_every, "a whole number >= 1, or None")
    run = (
        {
            **asdict(settings),
            "clip": repr(settings.clip),
            "keep_zeros": keep_zeros,
            "look_every": every,
            "small": digest(list(small.state_dict().items())),
            "teacher": digest(list(teacher.state_dict().items())),
            "data": digest(_named(samples)),
            "held_out": None if held is None else digest(_named(_samples(small, held))),
        }
        if checkpoint is not None
        else {}
    )

    def look(model: nn.Module) -> float | None:
        return None if held is None else _mean(losses(model, held))

    def trained(model: nn.Module, name: str) -> tuple[nn.Module, list[dict[str, Any]]]:
        if lora is not None and name == "recovered":
            model = adapted(model, lora, skip=objective.heads and objective.heads[0], seed=seed)
        path = None if checkpoint is None else Path(checkpoint) / f"{name}.safetensors"
        curve = train(
            model,
            objective,
            samples,
            masks,
            settings,
            keeping=Keeping(path=path, run=run, every=save_every),
            look=look,
            look_every=every,
            progress=progress,
            what=f"recover: {name}",
            together=together,
        )
        return (merged(model) if lora is not None and name == "recovered" else model), curve

    found = {}
    if held is not None:
        found = {"before": losses(small, held), "teacher": losses(teacher, held)}
    first = together.placed(fresh(small, masks, seed=seed)) if control else None
    student, curve = trained(student, "recovered")
    student.eval()
    if held is not None:
        found["after"] = losses(student, held)
    other: list[dict[str, Any]] | None = None
    if first is not None:
        first, other = trained(first, "control")
        if held is not None:
            found["control"] = losses(first, held)
    for name, parameter in small.named_parameters():
        student.get_parameter(name).requires_grad_(parameter.requires_grad)
    passes = settings.num_samples / len(samples)
    unit = _unit(small, samples, objective)
    read = curve[-1]["places"]
    notes = (
        f"{tokens:,} {unit} were asked, {read:,} read: windows are read whole"
        if tokens is not None and tokens != read
        else "",
        f"all data are read {passes:.1f} times" if passes > 1 else "",
        objective.pairs.left_out,
        said(masks),
        "" if samples.labels is not None else "there are no labels: the teacher alone is followed",
    )
    return Recovered(
        student,
        settings,
        curve,
        other,
        {n: found[n] for n in ("before", "after", "teacher", "control") if n in found},
        read,
        tuple(note for note in notes if note),
        unit,
    )


def _samples(model: nn.Module, data: Data) -> Samples:
    return Samples(*gathered(model, reread(data)))


def _check(settings: Settings, samples: Samples) -> None:
    if settings.cross_entropy and samples.labels is None:
        refuse("data", "batches without labels", "labels, or cross_entropy=0")
    for tensor in tensors_of_inputs(samples.inputs):
        if len(tensor) != len(samples):
            refuse("data", "inputs with other numbers of rows", "one row a sample in every input")


def _scheduled(
    settings: Settings,
    samples: Samples,
    objective: Objective,
    tokens: int | None,
    steps: int | None,
    rows: int | None,
) -> Settings:
    """Return settings with the steps that were asked, and the samples that run together."""
    places = places_of(samples, objective)
    if not places:
        refuse("data", "no label and no place that counts", "at least one")
    each = places / len(samples)
    if tokens is not None and steps is not None:
        refuse_together({"tokens": tokens, "steps": steps}, "one of them")
    if tokens is not None:
        if type(tokens) is not int or tokens < each:
            refuse("tokens", tokens, f"a whole number of at least one sample: {math.ceil(each)}")
        wanted = tokens * len(samples) // places
        if wanted < settings.batch:
            told = {"tokens": tokens, "batch": settings.batch}
            refuse_together(told, f"a batch of at most {wanted}: so many samples have them")
        steps = -(-wanted // settings.batch)
        settings = replace(settings, samples=wanted)
    elif steps is None:
        steps = max(1, len(samples) // settings.batch)
    if rows is None:
        together = settings.batch if objective.places == 1 else max(1, PLACES // objective.places)
        rows = min(settings.batch, together)
    return replace(settings, steps=steps, rows=rows)


def _within(usual: int, tokens: int | None, samples: Samples, objective: Objective) -> int:
    """Return the usual batch, or as many samples as have the tokens that are asked, if fewer."""
    if type(tokens) is not int:
        return usual
    places = places_of(samples, objective)
    return max(1, min(usual, tokens * len(samples) // max(places, 1)))


def _unit(model: nn.Module, samples: Samples, objective: Objective) -> str:
    """Return what a place is, in words."""
    if objective.places == 1:
        return "samples"
    return "tokens" if is_causal(model) is True or _reads_tokens(samples) else "places"


def _reads_tokens(samples: Samples) -> bool:
    return isinstance(samples.inputs, dict) and "input_ids" in samples.inputs


def _named(samples: Samples) -> list[tuple[str, Tensor]]:
    inputs = samples.inputs
    named = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    found = [(str(name), tensor) for name, tensor in named]
    return found if samples.labels is None else [*found, ("labels", samples.labels)]


def _mean(found: Losses) -> float:
    return float(found.total.sum() / found.counted.sum())
