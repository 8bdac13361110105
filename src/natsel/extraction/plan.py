"""The plan: what is needed to rebuild a small model without pickle and without its original."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from natsel.common.errors import refuse
from natsel.common.files import read_json, write_atomic, write_json
from natsel.communities import Communities
from natsel.communities.adapters import adapt
from natsel.communities.surgery import tensors_of
from natsel.selection import Survivors

SCHEMA = 1
PLAN_FILE = "plan.json"
MODEL_FILE = "model.safetensors"
_ATTRIBUTE = "natsel_plan"


@dataclass(frozen=True)
class Plan:
    """The serialised survivors, with what is needed to rebuild the smaller model.

    Attributes:
        constructor: how the dense model was made (``{"name", "arguments"}`` of a reference
            network), or None: then the user gives the model when loading.
        model: the class of the model, for messages only; it is never imported.
        survivors: the kept places per community.
        sizes: how many populations each community had.
        tensors: shape and dtype of every tensor of the small model.
        attributes: Python numbers in modules that follow a size, by "module.attribute".
        parameters_before: number of parameters of the dense model.
        parameters_after: number of parameters of the small model.
        schema: version of this format.
    """

    constructor: dict[str, Any] | None
    model: str
    survivors: dict[str, list[int]]
    sizes: dict[str, int]
    tensors: dict[str, dict[str, Any]]
    attributes: dict[str, int] = field(default_factory=dict)
    parameters_before: int = 0
    parameters_after: int = 0
    schema: int = SCHEMA

    @classmethod
    def describe(
        cls, model: nn.Module, small: nn.Module, survivors: Survivors, communities: Communities
    ) -> Plan:
        """Return the plan of an extraction."""
        # A model that was cut before keeps the numbers that followed then.
        earlier = getattr(model, _ATTRIBUTE, None)
        attributes = dict(earlier.attributes) if isinstance(earlier, Plan) else {}
        for community in communities.values():
            for bound in community.rebindings:
                value = getattr(small.get_submodule(bound.module), bound.attribute)
                attributes[f"{bound.module}.{bound.attribute}"] = int(value)
        constructor = getattr(model, "constructor", None)
        return cls(
            constructor=constructor if isinstance(constructor, dict) else None,
            model=f"{type(small).__module__}.{type(small).__qualname__}",
            survivors={n: m.nonzero().reshape(-1).tolist() for n, m in survivors.items()},
            sizes={n: m.numel() for n, m in survivors.items()},
            tensors=_described(_stored(small)),
            attributes=attributes,
            parameters_before=sum(p.numel() for p in model.parameters()),
            parameters_after=sum(p.numel() for p in small.parameters()),
        )

    def summary(self) -> str:
        """Return in words what is kept of each community, and how many parameters that saves."""
        lines = [
            f"{name}: {len(kept)} of {self.sizes[name]} kept"
            for name, kept in self.survivors.items()
        ]
        lines.append(f"parameters: {self.parameters_before:,} -> {self.parameters_after:,}")
        return "\n".join(lines)


def attach_plan(small: nn.Module, plan: Plan) -> None:
    """Remember the plan on the model, so that :func:`save` needs nothing else."""
    object.__setattr__(small, _ATTRIBUTE, plan)


def plan_of(small: nn.Module) -> Plan:
    """Return the plan of an extracted model.

    Raises:
        ValueError: if the model was not extracted by natsel.
    """
    plan = getattr(small, _ATTRIBUTE, None)
    if not isinstance(plan, Plan):
        refuse("small", type(small).__name__, "a model returned by natsel.extract")
    return plan


def save(small: nn.Module, folder: str | Path) -> Path:
    """Write an extracted model: ``model.safetensors`` and ``plan.json``, no pickle.

    Args:
        small: a model returned by :func:`natsel.extract`.
        folder: where; it is made if it is not there.

    Returns:
        The folder.

    Raises:
        ValueError: if the model was not extracted by natsel.
    """
    plan = plan_of(small)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in _stored(small).items()}
    content = safetensors.torch.save(tensors)
    # The precision may have changed since the extraction.
    described = asdict(replace(plan, tensors=_described(tensors)))
    write_atomic(folder / MODEL_FILE, content)
    write_json(folder / PLAN_FILE, {**described, "sha256": _checksum(described, content)})
    return folder


def load(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    rebuild: Callable[[dict[str, Any]], nn.Module] | None = None,
) -> nn.Module:
    """Read a model that :func:`save` wrote. Nothing in the files is executed.

    Args:
        folder: where it was saved.
        model: a dense model of the same architecture, for models that the plan cannot rebuild by
            itself; it is not changed.
        rebuild: from the recorded constructor of a reference network to the dense model.

    Returns:
        The small model, in evaluation mode, on the CPU.

    Raises:
        ValueError: if a file is missing, damaged, of another version or for another architecture.
    """
    folder = Path(folder)
    plan, content = _read(folder)
    if model is None:
        if plan.constructor is None or rebuild is None:
            refuse("model", None, f"model=<a dense {plan.model}>: the plan names no constructor")
        model = rebuild(plan.constructor)
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / MODEL_FILE} is not a safetensors file: {error}") from None
    if _described(tensors) != plan.tensors:
        raise ValueError(f"{folder / MODEL_FILE} does not hold the tensors that its plan lists")
    small = _reshaped(model, tensors, folder)
    modules = dict(small.named_modules())
    for path, value in plan.attributes.items():
        name, _, attribute = path.rpartition(".")
        # Only a number that is there already may be set: a plan is data, not code.
        found = vars(modules[name]).get(attribute) if name in modules else None
        if type(value) is not int or type(found) is not int:
            refuse("model", type(model).__name__, f"one with a whole number at {path}")
        setattr(modules[name], attribute, value)
    adapt(small)
    attach_plan(small, plan)
    return small.eval()


def _read(folder: Path) -> tuple[Plan, bytes]:
    for name in (PLAN_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            refuse("folder", str(folder), f"a folder with {PLAN_FILE} and {MODEL_FILE}")
    data = read_json(folder / PLAN_FILE)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        refuse(f"{folder / PLAN_FILE} schema", found, f"{SCHEMA}")
    checksum = data.pop("sha256", None)
    try:
        plan = Plan(**data)
    except TypeError:
        plan = None
    if plan is None or not all(
        isinstance(d, dict) for d in (plan.survivors, plan.sizes, plan.tensors, plan.attributes)
    ):
        raise ValueError(f"{folder / PLAN_FILE} is not a plan of schema {SCHEMA}")
    content = (folder / MODEL_FILE).read_bytes()
    if _checksum(data, content) != checksum:
        raise ValueError(f"{folder} is damaged: its checksum does not match {MODEL_FILE} and plan")
    return plan, content


def _checksum(plan: dict[str, Any], content: bytes) -> str:
    """Return the SHA-256 of the tensors followed by the plan."""
    text = json.dumps(plan, sort_keys=True).encode()
    return hashlib.sha256(content + text).hexdigest()


def _described(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    return {
        name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in tensors.items()
    }


def _stored(model: nn.Module) -> dict[str, Tensor]:
    kept = set(model.state_dict(keep_vars=True))
    return {n: t for n, t in tensors_of(model).items() if n in kept}


def _reshaped(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> nn.Module:
    expected = _stored(model)
    if set(expected) != set(tensors):
        missing = sorted(set(expected) ^ set(tensors))[:3]
        refuse("model", type(model).__name__, f"the architecture of {folder} ({missing} differ)")
    memo: dict[int, object] = {}
    for name, old in expected.items():
        new = tensors[name]
        if new.dim() != old.dim() or any(a > b for a, b in zip(new.shape, old.shape, strict=True)):
            refuse(f"model {name}", tuple(old.shape), f"at least the saved {tuple(new.shape)}")
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        memo[id(old)] = new
    with torch.no_grad():
        return copy.deepcopy(model, memo)
