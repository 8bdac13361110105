"""Open a model by what the user calls it: a reference network, a folder, ``hf:NAME``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from natsel.common.calls import Inputs
from natsel.common.errors import choose, refuse, refuse_together, shortened
from natsel.common.importing import names_own
from natsel.common.json_data import read_json
from natsel.extraction import plan_of
from natsel.extraction.store import is_saved
from natsel.integrations.transformers import class_of
from natsel.integrations.transformers import example_inputs as example_inputs_of
from natsel.integrations.transformers.examples import MAX_INPUT
from natsel.integrations.transformers.hub import from_pretrained
from natsel.io.loading import load
from natsel.io.own import FACTORY, own_model
from natsel.models import MODELS, build, default_shape

BATCH = 2
HUB = "hf:"


@dataclass(frozen=True)
class Opened:
    """A model that was opened.

    Attributes:
        model: in evaluation mode, on the CPU.
        kind: "reference", "saved" (by natsel), "pretrained" (of the transformers library) or "own"
            (made by a function of the user's).
        description: what it is, in a few words.
        example_inputs: inputs that it runs on, positional or by name.
    """

    model: nn.Module
    kind: str
    description: str
    example_inputs: Inputs

    def __repr__(self) -> str:
        return f"Opened({self.kind}: {shortened(self.description)})"


def open_model(
    source: str | Path,
    *,
    in_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Opened:
    """Open a model, with inputs that it runs on.

    Args:
        source: the name of a reference network ("mlp", "resnet20", "llama", ...); a folder that
            ``natsel.save``, ``natsel evolve`` or ``save_pretrained`` wrote; or ``hf:`` and a
            folder or a name on the Hugging Face Hub; or ``module:name`` of a function of your own
            that returns a model, or (model, example_inputs). Nothing else reaches the network, only
            safetensors are read, and no code that comes with a model is run.
        in_shape: of one input of a reference network: (C, H, W), or (T,) for text; (1, 28, 28) or
            (64,) if not given.
        num_classes: outputs of a reference network, 10 if not given; of text, characters of the
            alphabet.
        seed: of the weights of a reference network, and of the inputs.
        **options: what the class of a reference network accepts.

    Returns:
        The model, what it is, and example inputs.

    Raises:
        ValueError: if there is no such model, or it needs code that natsel does not have.
        MissingExtraError: if it needs the transformers library and that is not installed.

    Example:
        >>> opened = open_model("mlp", in_shape=(1, 8, 8), hidden=(16,))
        >>> opened.description
        'mlp, 1,210 parameters'
        >>> [tuple(x.shape) for x in opened.example_inputs]
        [(2, 1, 8, 8)]
    """
    name, folder = str(source), Path(source)
    if name in MODELS:
        shape = in_shape or default_shape(name)
        outputs = 10 if num_classes is None else num_classes
        model = build(name, in_shape=shape, num_classes=outputs, seed=seed, **options)
        return _opened(model, "reference", name, seed)
    own = names_own(name) and not folder.exists()
    if not (own or name.startswith(HUB) or "/" in name or folder.exists()):
        choose("model", name, (*MODELS, f"{HUB}NAME", "a folder"))
    given = {"in_shape": in_shape, "num_classes": num_classes, **options}
    if given := {option: value for option, value in given.items() if value is not None}:
        names = ", ".join(given)
        refuse_together(given, f"no {names}: {name} is not a reference network")
    if name.startswith(HUB):
        wanted = name.removeprefix(HUB)
        if wanted.startswith("~/"):  # which no shell expands behind a prefix
            wanted = str(Path(wanted).expanduser())
        if is_saved(Path(wanted)):
            return _saved(Path(wanted), seed)
        return _opened(from_pretrained(wanted), "pretrained", wanted, seed)
    if own:
        return open_own(name, seed=seed)
    if is_saved(folder):
        return _saved(folder, seed)
    if folder.is_dir():
        if not _is_pretrained(folder):
            allowed = "a folder with plan.json, or with the config.json of a transformers model"
            refuse("model", name, allowed)
        return _opened(from_pretrained(name), "pretrained", name, seed)
    refuse("model", name, f"a folder that is there, or {HUB}NAME for a name on the Hub")


def open_own(name: str, *, seed: int = 0, example_inputs: Inputs | None = None) -> Opened:
    """Open a model that a user's own function makes.

    Args:
        name: ``module:name`` of the function.
        seed: of its random weights, and of inputs that are made up.
        example_inputs: what it runs on, where the function tells no inputs.

    Raises:
        ValueError: if there is no such function, it fails, or there are no inputs.
    """
    model, inputs = own_model(name, seed=seed)
    inputs = example_inputs if inputs is None else inputs
    if inputs is None:
        if class_of(model) is None:
            refuse("model", name, f"{FACTORY}: without inputs, data (--data) have to tell them")
        inputs = example_inputs_of(model, seed=seed)
    count = sum(p.numel() for p in model.parameters())
    description = f"{type(model).__name__} from {name}, {count:,} parameters"
    return Opened(model.cpu().eval(), "own", description, inputs)


def _saved(folder: Path, seed: int) -> Opened:
    model = load(folder)
    before = plan_of(model).parameters_before
    return _opened(model, "saved", f"{folder} (of {before:,} parameters)", seed)


def _opened(model: nn.Module, kind: str, name: str, seed: int) -> Opened:
    model = model.cpu().eval()
    count = sum(p.numel() for p in model.parameters())
    library_class = class_of(model)
    if library_class is not None:
        name = f"{library_class.__name__} from {name}"
        inputs: Inputs = example_inputs_of(model, seed=seed)
    else:
        constructor: Any = model.constructor
        shape = constructor["arguments"]["in_shape"]
        if math.prod(shape) > MAX_INPUT:
            refuse("in_shape", shape, f"an input of at most {MAX_INPUT:,} numbers")
        generator = torch.Generator().manual_seed(seed)
        inputs = (torch.randn(BATCH, *shape, generator=generator),)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if isinstance(inputs, dict):
        inputs = {n: x.to(dtype) if x.is_floating_point() else x for n, x in inputs.items()}
    else:
        inputs = tuple(x.to(dtype) for x in inputs)
    return Opened(model, kind, f"{name}, {count:,} parameters", inputs)


def _is_pretrained(folder: Path) -> bool:
    path = folder / "config.json"
    try:
        data = read_json(path, finite=False) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(data, dict) and "model_type" in data
