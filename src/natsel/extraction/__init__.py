"""Remove the rest: prediction, surgery, verification, plans, optimizers, ONNX."""

from natsel.extraction.extract import extract
from natsel.extraction.onnx import export_onnx
from natsel.extraction.plan import Plan, plan_of
from natsel.extraction.prediction import Prediction, preview
from natsel.extraction.rebuild import rebuild_small
from natsel.extraction.store import Stored, read_folder, write_model
from natsel.extraction.verify import Verification, VerificationError, verify

__all__ = [
    "Plan",
    "Prediction",
    "Stored",
    "Verification",
    "VerificationError",
    "export_onnx",
    "extract",
    "plan_of",
    "preview",
    "read_folder",
    "rebuild_small",
    "verify",
    "write_model",
]
