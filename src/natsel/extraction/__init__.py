"""Remove the rest: surgery, verification, plans, optimizers, ONNX."""

from natsel.extraction.extract import extract
from natsel.extraction.onnx import export_onnx
from natsel.extraction.plan import Plan, load, plan_of, save
from natsel.extraction.verify import Verification, VerificationError, verify

__all__ = [
    "Plan",
    "Verification",
    "VerificationError",
    "export_onnx",
    "extract",
    "load",
    "plan_of",
    "save",
    "verify",
]
