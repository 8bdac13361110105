"""Export to ONNX, checked against onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from natsel.common.calls import (
    Inputs,
    as_inputs,
    call,
    outputs_of,
    tensors_of_inputs,
    with_tensors,
)
from natsel.common.extras import require
from natsel.common.modes import evaluating
from natsel.extraction.unstructured import with_dense
from natsel.extraction.verification import VerificationError

TOLERANCE = 1e-4


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
) -> float:
    """Write a model as ONNX, run it in onnxruntime and compare.

    The first axis of every input is exported as dynamic. Layers of compressed rows are written as
    dense ones, with zeros: ONNX has no such product.

    Args:
        model: any model, small or dense.
        path: the file to write; it appears whole or not at all.
        example_inputs: inputs to export and compare with.

    Returns:
        The largest absolute difference between torch and onnxruntime.

    Raises:
        MissingExtraError: if the onnx extra is not installed.
        VerificationError: if the two differ by more than 1e-4 relative to the largest output.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    runtime = require("onnxruntime", "onnx")
    inputs = as_inputs(example_inputs)
    tensors = tensors_of_inputs(inputs)
    if all(x.dim() and x.shape[0] == 1 for x in tensors):
        # An axis of length 1 would be exported as fixed.
        tensors = tuple(torch.cat((x, x)) for x in tensors)
        inputs = with_tensors(inputs, tensors)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, evaluating(model):
        draft = Path(scratch) / "model.onnx"
        _export(with_dense(model), inputs, draft)
        session = runtime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        feed = {n: x.detach().cpu().numpy() for n, x in zip(names, tensors, strict=True)}
        theirs = [torch.from_numpy(o) for o in session.run(None, feed)]
        with torch.no_grad():
            ours = outputs_of(call(model, inputs))
        worst = max(float((a.cpu() - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        scale = max(float(a.abs().max()) for a in ours)
        if not worst <= TOLERANCE * max(scale, 1e-30):
            raise VerificationError(f"onnxruntime differs from torch by {worst:.3g}")
        os.replace(draft, path)
    return worst


def _export(model: nn.Module, inputs: Inputs, draft: Path) -> None:
    batch = torch.export.Dim.DYNAMIC
    dynamic = [{0: batch} if x.dim() and x.shape[0] > 1 else {} for x in tensors_of_inputs(inputs)]
    shapes: dict[str, Any] | tuple[Any, ...] = tuple(dynamic)
    if isinstance(inputs, dict):
        shapes = dict(zip(inputs, dynamic, strict=True))
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                () if isinstance(inputs, dict) else inputs,
                str(draft),
                kwargs=inputs if isinstance(inputs, dict) else None,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
