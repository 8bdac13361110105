"""Remove the rest: prediction, surgery, verification, plans, optimizers, ONNX."""

from natsel.extraction.extract import extract
from natsel.extraction.onnx import export_onnx
from natsel.extraction.plan import Plan, load, plan_of, save
from natsel.extraction.prediction import Prediction, preview
from natsel.extraction.verify import Verification, VerificationError, verify

__all__ = [
    "Plan",
    "Prediction",
    "Verification",
    "VerificationError",
    "export_onnx",
    "extract",
    "load",
    "plan_of",
    "preview",
    "save",
    "verify",
]
