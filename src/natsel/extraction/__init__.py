"""Remove the rest: prediction, surgery, verification, plans, optimizers, ONNX."""

from natsel.extraction.absorbed import Absorbed, Compensation
from natsel.extraction.aligning import Aligned, align
from natsel.extraction.compensation import compensate
from natsel.extraction.conversion import Conversion
from natsel.extraction.csr import CsrLinear
from natsel.extraction.extract import extract
from natsel.extraction.onnx import export_onnx
from natsel.extraction.plan import Plan, compensation_of, conversion_of, has_plan, masks_of, plan_of
from natsel.extraction.prediction import Prediction, preview
from natsel.extraction.rebuild import rebuild_small
from natsel.extraction.rotation import Rotation, rotate, rotation_of
from natsel.extraction.semi_structured import semi_structured as to_semi_structured
from natsel.extraction.state_layouts import register_state
from natsel.extraction.store import Stored, read_folder, write_model
from natsel.extraction.verification import Verification, VerificationError
from natsel.extraction.verify import verify, with_masked_values

__all__ = [
    "Absorbed",
    "Aligned",
    "Compensation",
    "Conversion",
    "CsrLinear",
    "Plan",
    "Prediction",
    "Rotation",
    "Stored",
    "Verification",
    "VerificationError",
    "align",
    "compensate",
    "compensation_of",
    "conversion_of",
    "export_onnx",
    "extract",
    "has_plan",
    "masks_of",
    "plan_of",
    "preview",
    "read_folder",
    "rebuild_small",
    "register_state",
    "rotate",
    "rotation_of",
    "to_semi_structured",
    "verify",
    "with_masked_values",
    "write_model",
]
