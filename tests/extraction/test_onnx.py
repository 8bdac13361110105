"""What onnxruntime computes is what torch computes, for any batch."""

from __future__ import annotations

import pytest
import torch

import natsel
from natsel.extraction import VerificationError

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("batch", [1, 3])
def test_the_exported_model_is_the_small_model(net, draw, tmp_path, batch):
    model, communities, _ = net("cnn")
    small = natsel.extract(model, draw(communities, 0.5, 0))
    small.train()
    path = tmp_path / "deep" / "small.onnx"
    worst = natsel.export_onnx(small, path, (torch.randn(batch, 1, 8, 8),))
    assert worst < 1e-4
    assert small.training
    assert [p.name for p in path.parent.iterdir()] == ["small.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    small.eval()
    for size in (1, 2, 7):
        x = torch.randn(size, 1, 8, 8)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), small(x).detach(), rtol=0, atol=1e-4)


def test_a_difference_is_an_error_and_leaves_no_file(net, tmp_path, monkeypatch):
    model, _, inputs = net("mlp")
    monkeypatch.setattr(
        "natsel.extraction.onnx.outputs_of", lambda value: [value + 1.0], raising=True
    )
    with pytest.raises(VerificationError, match="onnxruntime differs"):
        natsel.export_onnx(model, tmp_path / "model.onnx", inputs)
    assert list(tmp_path.iterdir()) == []
