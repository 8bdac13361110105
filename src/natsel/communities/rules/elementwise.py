"""Arithmetic element by element: one operand keeps its labels, several unite what meets."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from natsel.communities.propagation import Propagation, TensorRef, rule

UNARY = (
    "relu relu_ gelu gelu_ tanh tanh_ sigmoid sigmoid_ silu silu_ elu elu_ selu selu_ celu celu_ "
    "mish mish_ leaky_relu leaky_relu_ hardtanh hardtanh_ relu6 relu6_ hardswish hardswish_ "
    "hardsigmoid hardsigmoid_ softplus softshrink hardshrink threshold threshold_ log_sigmoid "
    "neg exp log sqrt rsqrt abs sign sin cos erf reciprocal square floor ceil round clamp clamp_ "
    "clamp_min clamp_max nan_to_num logical_not bitwise_not isnan isfinite log1p expm1"
).split()

BINARY = (
    "add.Tensor add_.Tensor sub.Tensor sub_.Tensor rsub.Scalar mul.Tensor mul_.Tensor div.Tensor "
    "div_.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar mul_.Scalar add_.Scalar div_.Scalar "
    "pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar maximum.default minimum.default "
    "where.self where.ScalarOther where.ScalarSelf masked_fill.Scalar masked_fill_.Scalar "
    "eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor "
    "gt.Scalar ge.Tensor ge.Scalar addcmul.default lerp.Scalar atan2.default "
    "div.Tensor_mode clamp.Tensor"
).split()


@rule(*(f"aten.{name}.default" for name in UNARY))
def unary(run: Propagation, node: fx.Node, x: Any, *args: Any, **kwargs: Any) -> Tensor:
    """f(x), element by element."""
    return run.lift(x)


@rule(*(f"aten.{name}" for name in BINARY))
def binary(run: Propagation, node: fx.Node, *args: Any, **kwargs: Any) -> Any:
    """f(x, y, ...), element by element with broadcasting."""
    if not any(isinstance(a, Tensor | TensorRef) for a in args):
        return run.barrier(node, args, kwargs)
    return run.combine(node, *args)


@rule("aten.glu.default")
def glu(run: Propagation, node: fx.Node, x: Any, dim: int = -1) -> Tensor:
    """First half times the sigmoid of the second half."""
    first, second = run.lift(x).chunk(2, dim)
    return run.combine(node, first, second)
