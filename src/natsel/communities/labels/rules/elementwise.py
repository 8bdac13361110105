"""Arithmetic element by element: one operand keeps its labels, several unite what meets."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from natsel.communities.labels.graph import operator_name, tensors_in
from natsel.communities.labels.parts import without_shared
from natsel.communities.labels.propagation import Propagation, rule

UNARY = [
    "relu",
    "gelu",
    "tanh",
    "sigmoid",
    "silu",
    "elu",
    "selu",
    "celu",
    "mish",
    "leaky_relu",
    "hardtanh",
    "relu6",
    "hardswish",
    "hardsigmoid",
    "softplus",
    "softshrink",
    "hardshrink",
    "threshold",
    "log_sigmoid",
    "neg",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "abs",
    "sign",
    "sin",
    "cos",
    "tan",
    "atan",
    "sinh",
    "cosh",
    "erf",
    "reciprocal",
    "square",
    "floor",
    "ceil",
    "round",
    "trunc",
    "clamp",
    "clamp_min",
    "clamp_max",
    "nan_to_num",
    "logical_not",
    "bitwise_not",
    "isnan",
    "isinf",
    "isfinite",
    "log1p",
    "log2",
    "expm1",
    "exp2",
    "tril",
    "triu",
    "logit",
    "positive",
    "absolute",
    "negative",
    "clip",
    "sgn",
    "asin",
    "acos",
    "asinh",
    "acosh",
    "atanh",
    "erfc",
    "erfinv",
    "sinc",
    "rad2deg",
    "deg2rad",
    "frac",
    "signbit",
    "conj",
    "_conj",
    "resolve_conj",
    "real",
    "imag",
    "angle",
]

BINARY = [
    "add.Tensor",
    "sub.Tensor",
    "rsub.Tensor",
    "rsub.Scalar",
    "mul.Tensor",
    "div.Tensor",
    "true_divide.Tensor",
    "add.Scalar",
    "sub.Scalar",
    "mul.Scalar",
    "div.Scalar",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "pow.Scalar",
    "maximum.default",
    "minimum.default",
    "fmod.Tensor",
    "remainder.Tensor",
    "remainder.Scalar",
    "floor_divide.default",
    "div.Tensor_mode",
    "div.Scalar_mode",
    "where.self",
    "where.ScalarOther",
    "where.ScalarSelf",
    "where.Scalar",
    "masked_fill.Scalar",
    "masked_fill.Tensor",
    "eq.Tensor",
    "eq.Scalar",
    "ne.Tensor",
    "ne.Scalar",
    "lt.Tensor",
    "lt.Scalar",
    "le.Tensor",
    "le.Scalar",
    "gt.Tensor",
    "gt.Scalar",
    "ge.Tensor",
    "ge.Scalar",
    "multiply.Tensor",
    "multiply.Scalar",
    "subtract.Tensor",
    "subtract.Scalar",
    "divide.Tensor",
    "divide.Scalar",
    "floor_divide.Scalar",
    "fmod.Scalar",
    "greater.Tensor",
    "greater.Scalar",
    "less.Tensor",
    "less.Scalar",
    "hypot.default",
    "copysign.Tensor",
    "xlogy.Tensor",
    "logaddexp.default",
    "heaviside.default",
    "complex.default",
    "polar.default",
    "isclose.default",
    "fmax.default",
    "fmin.default",
    "max.other",
    "min.other",
    "clamp_min.Tensor",
    "clamp_max.Tensor",
    "addcmul.default",
    "addcdiv.default",
    "lerp.Scalar",
    "lerp.Tensor",
    "atan2.default",
    "clamp.Tensor",
    "bitwise_and.Tensor",
    "bitwise_or.Tensor",
    "bitwise_xor.Tensor",
    "logical_and.default",
    "logical_or.default",
    "logical_xor.default",
    "__and__.Tensor",
    "__or__.Tensor",
]


@rule(*(f"aten.{name}.default" for name in UNARY))
def unary(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    """f(x), element by element."""
    return run.lift(x)


@rule(*(f"aten.{name}" for name in BINARY))
def binary(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """f(x, y, ...), element by element with broadcasting."""
    operands = tensors_in((args, kwargs))
    if operator_name(node) == "aten.mul.Tensor" and len(operands) == 2:
        operands = list(without_shared(run, *map(run.lift, operands)))
    return run.combine(node, *operands)


@rule("aten.glu.default")
def glu(run: Propagation, node: fx.Node, x: Any, dim: int = -1) -> Tensor:
    """First half times the sigmoid of the second half."""
    first, second = run.lift(x).chunk(2, dim)
    return run.combine(node, first, second)
