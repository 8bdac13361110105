"""What makes a saved folder one that ``from_pretrained`` and natsel both read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from natsel.common.budget import within
from natsel.common.errors import first_line, refuse
from natsel.common.json_data import read_json
from natsel.communities.branches.absent import Absent
from natsel.communities.branches.branch import Shortening, Stand
from natsel.communities.branches.removal import shorten
from natsel.communities.tensors import tied_names
from natsel.extraction.conversion import Conversion, Layer
from natsel.extraction.csr import CsrLinear
from natsel.extraction.store import Stored
from natsel.extraction.unstructured import with_skeletons
from natsel.integrations.transformers import facts
from natsel.integrations.transformers.bounds import check_size
from natsel.integrations.transformers.layers import honoured, layered_config, refuse_ignored
from natsel.integrations.transformers.library import (
    build,
    class_named,
    class_of,
    implementation,
    library,
    trusted,
)
from natsel.integrations.transformers.uniform import Proof, followed, plain_config

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
CODE_FILE = "modeling_natsel.py"


@dataclass(frozen=True)
class Pretrained:
    """How a small model of the transformers library is stored.

    Attributes:
        constructor: its class and implementations, for the plan.
        config: what ``config.json`` holds.
        companions: the configurations, and code where the class alone is not enough.
        numbers: whole numbers in modules that the configuration does not give by itself.
        left_out: buffers that the class computes.
        repeated: shared tensors that the class does not share by itself.
        added: buffers that are stored although the class computes them, otherwise.
        absent: weights of which only the survivors are stored, under other names. The class of the
            library would take them for missing and make them up.
    """

    constructor: dict[str, Any]
    config: dict[str, Any]
    companions: dict[str, bytes]
    numbers: dict[str, int]
    left_out: set[str]
    repeated: set[str]
    added: set[str]
    absent: set[str]

    @property
    def is_plain(self) -> bool:
        """Whether a configuration alone says what the model is."""
        return CODE_FILE not in self.companions


def pretrained(
    small: nn.Module, *, own: bool = False, proof: Proof | None = None
) -> Pretrained | None:
    """Describe a model of the transformers library, or return None for any other.

    Where a configuration of the original class can say what the model is, it is a plain one. Else
    it is the dense one, which plain ``from_pretrained`` refuses because the shapes differ; with
    ``trust_remote_code=True`` it works, by a module that is saved beside. So it is where layers
    hold only surviving weights, in compressed rows.

    Args:
        small: a model, whatever removed from it what its configuration still says it has.
        own: also describe a model of a user's class that inherits from the library.
        proof: that a plain configuration is right; by the output of the model by default.

    Returns:
        What to store; None, too, for a user's class that no configuration describes.

    Raises:
        ValueError: if its configuration does not build its class.
    """
    library_kind = class_of(small)
    kind: Any = library_kind if library_kind is not None or not own else type(small)
    if kind is None:
        return None
    like, data = described(small, kind)
    fresh = build(kind, data, like=like)
    conversion = compressed_layers(small)
    if conversion.converted:
        fresh = with_skeletons(fresh, conversion)
    absent = {
        name: (module.zero, module.arity, module.passed)
        for name, module in small.named_modules()
        if isinstance(module, Absent)
    }
    inside = tuple(f"{name}." for name in absent)
    gone = {name for name, _ in fresh.named_parameters() if name.startswith(inside)}
    shorten(fresh, Shortening(stands=tuple(Stand(n, *what) for n, what in absent.items())))
    left_out = facts.computed(small, fresh, exact=True)
    plain = None
    if not conversion.converted and not absent:
        given = (small, kind, data, like, proof)
        plain = plain_config(*given) or layered_config(*given)
    if plain is None and library_kind is None:
        return None
    companions = {}
    numbers: dict[str, int] = {}
    added: set[str] = set()
    if plain is None:
        sizes = {c.name: (c.in_features, c.out_features, c.kept) for c in conversion.converted}
        record = _record(small, fresh)
        config = {**data, "natsel": {**record, "compressed": sizes, "absent": absent}}
        needed = {}
        if facts.classes(small) != facts.classes(fresh):
            needed["natsel_adapt"] = ("natsel.communities.surgery.adapters", "adapt")
        if absent:
            needed["natsel_absent"] = ("natsel.communities.branches.absent", "Absent")
        if conversion.converted:
            needed["natsel_compressed"] = ("natsel.extraction.csr", "CsrLinear")
        config["auto_map"], companions[CODE_FILE] = _code(kind, needed)
        config["architectures"] = [f"Natsel{kind.__name__}"]
        numbers, added = _followed(small, fresh), set(record["buffers"])
    else:
        config = {**plain, "architectures": [kind.__name__]}
    if "eager" in json.dumps(like["experts"]):
        # The fused product, which is the default, may not take widths such as these.
        config["experts_implementation"] = like["experts"]
    companions[CONFIG_FILE] = _json(config)
    model: Any = small
    if getattr(small, "generation_config", None) is not None and model.can_generate():
        companions[GENERATION_FILE] = model.generation_config.to_json_string().encode()
    repeated = tied_names(small).keys() - tied_names(fresh).keys()
    return Pretrained(
        like, config, companions, numbers, left_out, repeated, added, gone | conversion.absent
    )


def has_code(folder: Path) -> bool:
    """Say whether the model in a folder needs the code beside it."""
    return (folder / CODE_FILE).is_file()


def described(model: Any, kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a model uses, and its configuration as data that only describes it.

    Args:
        model: of the transformers library.
        kind: its class there.

    Returns:
        The class with the implementations of attention and experts, for the plan; and the
        configuration.
    """
    like = {
        "class": kind.__name__,
        "attention": implementation(model.config, "attn"),
        "experts": implementation(model.config, "experts"),
    }
    data = trusted(json.loads(model.config.to_json_string(use_diff=False)))
    data.pop("_name_or_path", None)  # may name a folder of this machine
    data["model_type"] = kind.config_class.model_type
    data["dtype"] = str(model.dtype).removeprefix("torch.")
    return like, honoured(kind, data)


def compressed_layers(model: nn.Module) -> Conversion:
    """Return the layers of a model that hold only surviving weights."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, CsrLinear)}
    return Conversion(
        tuple(
            Layer(name, m.num_weights, i * o, i, o)
            for name, m in found.items()
            for i, o in [(m.in_features, m.out_features)]
        )
    )


def _followed(small: nn.Module, fresh: nn.Module) -> dict[str, int]:
    """Return the numbers that no adapter sets by the shapes of tensors."""
    return {
        name: value
        for name, value in followed(small, fresh).items()
        if value >= 0
        and not type(small.get_submodule(name.rpartition(".")[0])).__module__.startswith("torch.")
    }


def dense_model(stored: Stored) -> nn.Module:
    """Build the dense model of a folder; its weights hold no values yet.

    Args:
        stored: with a plan that names a class of the transformers library.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: if the class is not in the library, or the configuration is not one of it.
    """
    constructor = stored.plan.constructor or {}
    kind = class_named(constructor.get("class"))
    if kind is None:
        refuse("plan class", constructor.get("class"), "a model class of the transformers library")
    if CONFIG_FILE not in stored.files:
        refuse("folder", str(stored.folder), f"a folder with {CONFIG_FILE}")
    data = read_json(stored.files[CONFIG_FILE], finite=False)
    if not isinstance(data, dict):
        raise ValueError(f"{stored.files[CONFIG_FILE]} is no configuration")
    num_tensors, num_elements = len(stored.plan.tensors), stored.num_elements
    check_size(kind, data, num_tensors, num_elements)
    refuse_ignored(kind, data)
    with within("config.json", tensors=num_tensors, elements=num_elements):
        model: Any = build(kind, {**data, "architectures": [kind.__name__]}, like=constructor)
    if GENERATION_FILE in stored.files:
        generation = read_json(stored.files[GENERATION_FILE], finite=False)
        try:
            model.generation_config = library().GenerationConfig.from_dict(generation)
        except Exception as error:  # noqa: BLE001 - any value of it may be of any type
            told = f"none of transformers: {first_line(error)}"
            raise ValueError(f"{stored.files[GENERATION_FILE]} is {told}") from None
    # Where its tokenizer is, for whoever saves it again.
    model.name_or_path = model.config._name_or_path = str(stored.folder)
    built: nn.Module = model
    return built


def _record(small: nn.Module, fresh: nn.Module) -> dict[str, Any]:
    """Return what a small model has otherwise than its class would."""
    shapes, numbers = facts.shapes(fresh), facts.numbers(fresh)
    kept = small.state_dict(keep_vars=True).keys()
    computed = facts.computed(small, fresh, exact=False)
    loose = (name for name, _ in small.named_buffers() if name not in kept)
    return {
        "shapes": {n: s for n, s in facts.shapes(small).items() if s != shapes.get(n)},
        "numbers": {n: v for n, v in facts.numbers(small).items() if v != numbers.get(n)},
        "buffers": sorted(name for name in loose if name not in computed),
    }


def _code(kind: Any, needed: Mapping[str, tuple[str, str]]) -> tuple[dict[str, str], bytes]:
    """Return where the automatic classes find theirs, and the module that holds them.

    Args:
        kind: the class of the library.
        needed: what of natsel the classes hold: module and name, by attribute.
    """
    auto = library().models.auto.modeling_auto
    served: dict[str, Any] = {}
    for name in dir(auto):
        mapping = getattr(getattr(auto, name), "_model_mapping", None)
        if not name.startswith("AutoModel") or mapping is None:
            continue
        found = mapping.get(kind.config_class, ())
        found = found if isinstance(found, tuple) else (found,)
        if kind in found:
            served[name] = kind
        elif name == "AutoModel" and found:
            served[name] = found[0]
    source = resources.files("natsel.integrations.transformers").joinpath("reshaped.py")
    kinds = sorted({kind, *served.values()}, key=lambda k: str(k.__name__))
    lines = [source.read_text(), "", f"from transformers import {', '.join(_names(kinds))}  # noqa"]
    lines += [f"from {module} import {name}  # noqa" for module, name in needed.values()]
    for one in kinds:
        lines += ["", "", f"class Natsel{one.__name__}(Reshaped, {one.__name__}):"]
        lines.append(f'    """{one.__name__} with the shapes that its configuration records."""')
        lines += [""] if needed else []
        lines += [f"    {attribute} = {name}" for attribute, (_, name) in needed.items()]
    module = CODE_FILE.removesuffix(".py")
    auto_map = {name: f"{module}.Natsel{one.__name__}" for name, one in served.items()}
    return auto_map, ("\n".join(lines) + "\n").encode()


def _names(kinds: list[Any]) -> list[str]:
    return [kind.__name__ for kind in kinds]


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()
