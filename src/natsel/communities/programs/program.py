"""A model as a program: an ordinary module whose sizes are numbers in a graph."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from torch import Tensor, fx, nn
from torch.export import ExportedProgram, ExportGraphSignature
from torch.utils._pytree import TreeSpec, tree_unflatten

import natsel.communities.programs.followers  # noqa: F401  (fills the table of followers)
from natsel.common.errors import refuse
from natsel.communities.programs.layout import Kept, Layout, lay_out
from natsel.communities.programs.literals import changes, rewrite
from natsel.communities.programs.normal_form import copied
from natsel.communities.programs.trace import TensorKind, Trace, trace


@dataclass(frozen=True, eq=False)
class Code:
    """What a program computes. It never changes, so copies of a program share it.

    Attributes:
        module: the graph; parameters, buffers and constants are placeholders like the inputs.
        signature: which placeholder is which tensor.
        sources: per placeholder, the name of its tensor, or None for an input.
        tensors: the tensors by name.
        canonical: the first name of every shared tensor.
        inputs: the example inputs by name.
        any_batch: whether the first axis of the inputs may have any length.
        result: how the output is put together.
        training: what training would do otherwise, which the graph does not hold.
        numbers: the sizes that were rewritten since the program was made.
        digest: of the graph as it was then.
    """

    module: fx.GraphModule
    signature: ExportGraphSignature
    sources: tuple[str | None, ...]
    tensors: Mapping[str, TensorKind]
    canonical: dict[str, str]
    inputs: Mapping[str, TensorKind]
    any_batch: bool
    result: TreeSpec
    training: tuple[str, ...]
    numbers: Mapping[str, int]
    digest: int

    def __deepcopy__(self, memo: dict[int, object]) -> Code:
        return self

    @cached_property
    def traced(self) -> Trace:
        """The graph with every size as a number, for one sample where that is possible."""
        inputs: Iterator[TensorKind] = iter(self.inputs.values())
        kinds = tuple(
            self._one_sample(next(inputs)) if source is None else self.tensors[source]
            for source in self.sources
        )
        return trace(self.module, self.signature, kinds, self.tensors)

    @cached_property
    def layout(self) -> Layout:
        """The populations of every value."""
        return lay_out(self.traced, self.canonical)

    def _one_sample(self, kind: TensorKind) -> TensorKind:
        return kind._replace(shape=(1, *kind.shape[1:])) if self.any_batch else kind

    def with_numbers(self, numbers: Mapping[str, int], tensors: Mapping[str, TensorKind]) -> Code:
        """Return the code with other sizes, for tensors of other shapes."""
        graph = copied(self.module.graph)
        rewrite(graph, numbers)
        module = fx.GraphModule(self.module, graph)
        known = {**self.numbers, **numbers}
        return replace(self, module=module, tensors=tensors, numbers=known)


class Program(nn.Module):
    """A model whose computation is a graph; see :func:`natsel.as_program`.

    Parameters and buffers have the names and places that they have in the model. The graph is
    that of evaluation.
    """

    _code: Code

    @classmethod
    def build(cls, code: Code, tensors: Mapping[str, Tensor], persistent: set[str]) -> Program:
        """Make a program.

        Args:
            code: what it computes.
            tensors: its parameters and buffers by name.
            persistent: the names of those buffers that belong to its state.
        """
        kind = type("Program", (cls,), {"forward": _forward(tuple(code.inputs))})
        program = cast(Program, kind())
        program._code = code
        for name, tensor in tensors.items():
            path, _, attribute = name.rpartition(".")
            owner: nn.Module = program
            for part in path.split(".") if path else ():
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(attribute, tensor)
            else:
                owner.register_buffer(attribute, tensor, persistent=name in persistent)
        return program

    def train(self, mode: bool = True) -> Program:
        """Switch modes: refused where training differs from evaluation, which the graph holds.

        Raises:
            ValueError: if the model does something else while it is trained.
        """
        if mode and self._code.training:
            what = ", ".join(self._code.training)
            refuse(
                "mode",
                True,
                f"False: a program holds evaluation only, training differs in {what} "
                "(gradients flow all the same)",
            )
        return super().train(mode)

    def exported(self) -> ExportedProgram:
        """Return the graph as discovery reads it."""
        return self._code.traced.as_exported()

    def follow(self, dense: Program, kept: Kept) -> None:
        """Rewrite the sizes in the graph after tensors were cut, in place.

        Args:
            dense: what was cut.
            kept: the places of its tensors that remain.

        Raises:
            ValueError: if a size cannot follow.
        """
        if kept:
            self._set(changes(dense._code.layout, kept))

    def _set(self, numbers: Mapping[str, int]) -> None:
        code = self._code
        tensors = {
            name: kind._replace(shape=tuple(tensor_at(self, name).shape))
            for name, kind in code.tensors.items()
        }
        self._code = code.with_numbers(numbers, tensors)

    def _run(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        code = self._code
        names = list(code.inputs)
        unknown = sorted(named.keys() - set(names[len(arguments) :]))
        if unknown or len(arguments) + len(named) != len(names):
            found = [*map(_brief, arguments), *named]
            refuse("inputs", ", ".join(found), f"the program's inputs: {', '.join(names)}")
        values = [*arguments, *(named[name] for name in names[len(arguments) :])]
        for name, value in zip(names, values, strict=True):
            _check(name, value, code.inputs[name].shape, code.any_batch)
        given = iter(values)
        flat = [next(given) if s is None else tensor_at(self, s) for s in code.sources]
        return tree_unflatten(code.module.forward(*flat), code.result)

    def __repr__(self) -> str:
        batch = "*" if self._code.any_batch else None
        inputs = [
            f"{name} [{', '.join(str(n) for n in (batch or kind.shape[0], *kind.shape[1:]))}]"
            for name, kind in self._code.inputs.items()
        ]
        return f"Program({', '.join(inputs)})"


def tensor_at(module: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by its name; with its masses, where it is gated."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return cast(Tensor, found)


def literals_of(small: nn.Module) -> dict[str, int]:
    """Return what a plan needs to rebuild a program: its rewritten sizes, and of which graph."""
    if not isinstance(small, Program):
        return {}
    return {**small._code.numbers, DIGEST: small._code.digest}


def follow_literals(small: nn.Module, numbers: Mapping[str, int]) -> dict[str, int]:
    """Set the sizes that a plan recorded, in place; any other module gets none.

    Args:
        small: a program with tensors that have been cut, or any module.
        numbers: from the plan.

    Returns:
        The numbers that are still to be set.

    Raises:
        ValueError: if the plan does not belong to this program.
    """
    if not isinstance(small, Program):
        if DIGEST in numbers:
            refuse("model", type(small).__name__, "natsel.as_program(model, example_inputs)")
        return dict(numbers)
    rest = {name: value for name, value in numbers.items() if name != DIGEST}
    if numbers.get(DIGEST) != small._code.digest:
        refuse(
            "model",
            "a program with another graph",
            "the model, inputs and version of torch that the saved program was made of",
        )
    small._set(rest)
    return {}


DIGEST = "digest of the program"


def _forward(names: tuple[str, ...]) -> Any:
    """Return a forward with the names of the model's inputs, which exporters ask for."""

    def forward(self: Program, *arguments: Any, **named: Any) -> Any:
        return self._run(arguments, named)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def _check(name: str, value: Any, shape: tuple[int, ...], any_batch: bool) -> None:
    """Make sure that an input has the shape that is written into the graph."""
    first = 1 if any_batch else 0
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    fits = isinstance(value, Tensor) and value.dim() == len(shape)
    if not fits or tuple(value.shape[first:]) != shape[first:]:
        allowed = ", ".join(["any batch size"] * first + [str(n) for n in shape[first:]])
        refuse(name, found, f"the shape of the example: ({allowed})")


def _brief(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
