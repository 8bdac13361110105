"""The plan: what is needed to rebuild a small model without pickle and without its original."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from torch import Tensor, nn

from natsel.common.errors import first_line, refuse
from natsel.common.json_data import parse_json
from natsel.communities import Communities
from natsel.communities.branches.branch import Shortening
from natsel.communities.numbers import number
from natsel.communities.programs.program import literals_of
from natsel.communities.surgery.counting import counts_of
from natsel.communities.surgery.surgery import shortened_by
from natsel.extraction.absorbed import Compensation
from natsel.extraction.conversion import Conversion
from natsel.extraction.keepers import look_after
from natsel.extraction.prediction import Prediction, predicted
from natsel.extraction.sparse import check_records, masks_from, record
from natsel.selection import Survivors

SCHEMA = 2
_ATTRIBUTE = "natsel_plan"


@dataclass(frozen=True)
class Plan:
    """The serialised survivors, with what is needed to rebuild the smaller model.

    Attributes:
        model: the class of the model, for comparison and messages only; it is never imported.
        constructor: how the dense model was made: ``{"name", "arguments"}`` of a reference
            network, ``{"class", ...}`` of one in the transformers library, ``{"args", "kwargs"}``
            of any other; or None: then the user gives the model when loading.
        survivors: the kept places per community.
        sizes: how many populations each community had.
        attributes: Python numbers in modules that follow a size, by "module.attribute".
        tensors: shape and dtype of every tensor that is stored.
        tied: further names of stored tensors.
        frozen: names of parameters that need no gradient.
        files: length and SHA-256 of every file that belongs to the plan.
        parameters_before: number of parameters of the dense model.
        parameters_after: number of parameters of the small model.
        prediction: what the selection saves, as plain data, for the summary.
        compensation: what compensation changed, as plain data; None where it did not run.
        conversion: which layers hold only surviving weights, as plain data; None where no single
            weights went.
        sparse: of each dense tensor with zeros for weights that went how many stay, where one of
            these is 0 by chance, and the SHA-256 of its mask; None where there is none.
        branches: what the removal of branches did to the modules, as plain data; None where none
            went.
        schema: version of this format.
    """

    model: str
    constructor: dict[str, Any] | None
    survivors: dict[str, list[int]]
    sizes: dict[str, int]
    attributes: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    parameters_before: int = 0
    parameters_after: int = 0
    prediction: dict[str, Any] = field(default_factory=dict)
    compensation: dict[str, Any] | None = None
    conversion: dict[str, Any] | None = None
    sparse: dict[str, Any] | None = None
    branches: dict[str, Any] | None = None
    schema: int = SCHEMA

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the communities that were selected in."""
        lines = Prediction.from_dict(self.prediction).lines if self.prediction else ()
        return frozenset(line.kind for line in lines)

    @classmethod
    def describe(
        cls, model: nn.Module, small: nn.Module, survivors: Survivors, communities: Communities
    ) -> Plan:
        """Return the plan of an extraction."""
        # A model that was cut before keeps the numbers that followed then.
        earlier = getattr(model, _ATTRIBUTE, None)
        attributes = dict(earlier.attributes) if isinstance(earlier, Plan) else {}
        shortening = shortened_by(communities.model, communities.values(), survivors)
        for community in communities.values():
            for bound in community.rebindings:
                path = shortening.renamed(bound.module)
                module = dict(small.named_modules()).get(path) if path is not None else None
                value = None if module is None else number(module, bound.attribute)
                if value is not None:
                    attributes[f"{path}.{bound.attribute}"] = value
        attributes |= {**literals_of(small), **counts_of(small)}
        return cls(
            model=f"{type(small).__module__}.{type(small).__qualname__}",
            constructor=earlier.constructor if isinstance(earlier, Plan) else None,
            survivors={n: m.nonzero().reshape(-1).tolist() for n, m in survivors.items()},
            sizes={n: m.numel() for n, m in survivors.items()},
            attributes=attributes,
            parameters_before=sum(p.numel() for p in model.parameters()),
            parameters_after=sum(p.numel() for p in small.parameters()),
            prediction=asdict(predicted(communities, survivors)),
            branches=_shortened(earlier, shortening),
        )

    @classmethod
    def describe_converted(cls, model: nn.Module, small: nn.Module, conversion: Conversion) -> Plan:
        """Return the plan of a model that lost single weights."""
        earlier = getattr(model, _ATTRIBUTE, None)
        if not isinstance(earlier, Plan):
            name = f"{type(model).__module__}.{type(model).__qualname__}"
            before = sum(p.numel() for p in model.parameters())
            numbers = {**literals_of(small), **counts_of(small)}
            earlier = cls(name, None, {}, {}, numbers, parameters_before=before)
        return replace(
            earlier,
            parameters_after=sum(p.numel() for p in small.parameters()),
            conversion=conversion.to_dict(),
        )

    @classmethod
    def of_whole(cls, model: nn.Module, attributes: Mapping[str, int]) -> Plan:
        """Return the plan of a model that is small by its own configuration, and lost nothing."""
        count = sum(p.numel() for p in model.parameters())
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        numbers = dict(attributes)
        return cls(name, None, {}, {}, numbers, parameters_before=count, parameters_after=count)

    def summary(self) -> str:
        """Return what is kept of each community and what that saves, as a table in text."""
        parts = [Prediction.from_dict(self.prediction).summary()] if self.prediction else []
        if self.conversion is not None:
            parts.append(Conversion.from_dict(self.conversion).summary())
        return "\n".join(parts)

    def to_json(self) -> bytes:
        """Return the plan as JSON that holds its own checksum."""
        data = asdict(self)
        text = json.dumps({**data, "sha256": _checksum(data)}, indent=2, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, name: str) -> Plan:
        """Return the plan that :meth:`to_json` wrote.

        Args:
            content: the JSON.
            name: what to call it in messages.

        Raises:
            ValueError: if it is damaged, of another version, or no plan.
        """
        data = parse_json(content, name)
        found = data.get("schema") if isinstance(data, dict) else None
        if found != SCHEMA:
            refuse(f"{name} schema", found, f"{SCHEMA}")
        checksum = data.pop("sha256", None)
        if _checksum(data) != checksum:
            raise ValueError(f"{name} is damaged: its checksum does not match its content")
        # Plans from before there was compensation or conversion say nothing of it.
        data.setdefault("compensation", None)
        data.setdefault("conversion", None)
        data.setdefault("sparse", None)
        data.setdefault("branches", None)
        try:
            is_plan = set(data) == {f.name for f in fields(cls)} and _well_formed(data)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            told = first_line(error)
            raise ValueError(f"{name} is not a plan of schema {SCHEMA}: {told}") from None
        if not is_plan:
            raise ValueError(f"{name} is not a plan of schema {SCHEMA}")
        return cls(**data)


def attach_plan(small: nn.Module, plan: Plan) -> None:
    """Remember the plan on the model, so that saving needs nothing else."""
    object.__setattr__(small, _ATTRIBUTE, plan)
    look_after(small)


def attach_sparse(model: nn.Module, masks: Mapping[str, Tensor], dense: nn.Module) -> None:
    """Remember on a model which of its weights stay, beside what its plan says already.

    Args:
        model: holds zeros where masks are false.
        masks: by parameter.
        dense: what it was made of; its plan goes on.
    """
    earlier = getattr(dense, _ATTRIBUTE, None)
    plan = earlier if isinstance(earlier, Plan) else Plan.of_whole(model, literals_of(model))
    tensors = dict(model.named_parameters())
    records = {name: record(tensors[name], mask) for name, mask in masks.items()}
    attach_plan(model, replace(plan, sparse={**(plan.sparse or {}), **records}))


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return which weights stay of a model that natsel made sparse, loaded ones too.

    Raises:
        ValueError: if it is none, or a weight that went is no longer 0: it was trained without
            :func:`natsel.hold`.
    """
    sparse = plan_of(model).sparse
    if sparse is None:
        refuse("model", type(model).__name__, "a model that natsel.sparsify returned")
    return masks_from(dict(model.named_parameters()), sparse)


def has_plan(model: nn.Module) -> bool:
    """Say whether a model was extracted by natsel, or loaded as such."""
    return isinstance(getattr(model, _ATTRIBUTE, None), Plan)


def plan_of(small: nn.Module) -> Plan:
    """Return the plan of an extracted model.

    Raises:
        ValueError: if the model was not extracted by natsel.
    """
    plan = getattr(small, _ATTRIBUTE, None)
    if not isinstance(plan, Plan):
        refuse("small", type(small).__name__, "a model returned by natsel.extract")
    return plan


def compensation_of(small: nn.Module) -> Compensation | None:
    """Return what compensation did to an extracted model, loaded ones too; None if it did not run.

    Raises:
        ValueError: if the model was not extracted by natsel.
    """
    found = plan_of(small).compensation
    return Compensation.from_dict(found) if found is not None else None


def conversion_of(small: nn.Module) -> Conversion | None:
    """Return which layers hold only surviving weights; None if no single weights went.

    Raises:
        ValueError: if the model was not extracted by natsel.
    """
    found = plan_of(small).conversion
    return Conversion.from_dict(found) if found is not None else None


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _well_formed(data: Mapping[str, Any]) -> bool:
    """Say whether every value has the type that its field has."""

    def all_of(kind: type, values: Any) -> bool:
        return all(type(v) is kind for v in values)

    tables = ("survivors", "sizes", "attributes", "tensors", "tied", "files", "prediction")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**63

    if data["compensation"] is not None:
        Compensation.from_dict(data["compensation"])
    if data["conversion"] is not None:
        Conversion.from_dict(data["conversion"])
    if data["sparse"] is not None:
        check_records(data["sparse"])
    if data["branches"] is not None:
        Shortening.from_dict(data["branches"])
    if data["prediction"]:
        Prediction.from_dict(data["prediction"])
    return (
        type(data["frozen"]) is list
        and all_of(dict, (data[name] for name in tables))
        and all_of(str, (data["model"], *data["frozen"], *data["tied"].values()))
        and type(data["constructor"]) in (dict, type(None))
        and all_of(list, data["survivors"].values())
        and all_of(int, data["attributes"].values())
        and all(map(is_count, data["sizes"].values()))
        and data["survivors"].keys() == data["sizes"].keys()
        and all(_are_places(kept, data["sizes"][n]) for n, kept in data["survivors"].items())
        and all(is_count(data[name]) for name in ("parameters_before", "parameters_after"))
        and all_of(dict, (*data["tensors"].values(), *data["files"].values()))
        and all(set(d) == {"shape", "dtype"} for d in data["tensors"].values())
        and all(
            set(d) == {"bytes", "sha256"}
            and is_count(d["bytes"])
            and type(d["sha256"]) is str
            and _is_name(name)
            for name, d in data["files"].items()
        )
    )


def _are_places(kept: list[Any], size: int) -> bool:
    """Say whether a list holds places of a community, in order and each once."""
    if not all(type(place) is int for place in kept):
        return False
    return all(map(int.__lt__, kept, kept[1:])) and (not kept or 0 <= kept[0] <= kept[-1] < size)


def _is_name(name: str) -> bool:
    """Say whether this can be a file in the folder itself, on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def _shortened(earlier: Any, shortening: Shortening) -> dict[str, Any] | None:
    """Return what branches took with them, those that went before as well."""
    if isinstance(earlier, Plan) and earlier.branches is not None:
        shortening = Shortening.from_dict(earlier.branches).then(shortening)
    return shortening.to_dict() if shortening else None
