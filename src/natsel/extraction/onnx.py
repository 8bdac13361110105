"""Export to ONNX, checked against onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from natsel.common.extras import require
from natsel.communities.discover import as_inputs, evaluating
from natsel.communities.proof import outputs_of
from natsel.extraction.verify import VerificationError

TOLERANCE = 1e-4


def export_onnx(
    model: nn.Module, path: str | Path, example_inputs: Tensor | Sequence[Tensor]
) -> float:
    """Write a model as ONNX, run it in onnxruntime and compare.

    The first axis of every input is exported as dynamic.

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
    if all(x.dim() and x.shape[0] == 1 for x in inputs):
        # An axis of length 1 would be exported as fixed.
        inputs = tuple(torch.cat((x, x)) for x in inputs)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, evaluating(model):
        draft = Path(scratch) / "model.onnx"
        _export(model, inputs, draft)
        session = runtime.InferenceSession(str(draft), providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        feed = {n: x.detach().cpu().numpy() for n, x in zip(names, inputs, strict=True)}
        theirs = [torch.from_numpy(o) for o in session.run(None, feed)]
        with torch.no_grad():
            ours = outputs_of(model(*inputs))
        worst = max(float((a.cpu() - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        scale = max(float(a.abs().max()) for a in ours)
        if not worst <= TOLERANCE * max(scale, 1e-30):
            raise VerificationError(f"onnxruntime differs from torch by {worst:.3g}")
        os.replace(draft, path)
    return worst


def _export(model: nn.Module, inputs: tuple[Tensor, ...], draft: Path) -> None:
    batch = torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch} if x.dim() and x.shape[0] > 1 else {} for x in inputs)
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
                inputs,
                str(draft),
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
