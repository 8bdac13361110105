"""The transformers library: small models that ``from_pretrained`` reads, and its models by name."""

from natsel.integrations.transformers.examples import example_inputs
from natsel.integrations.transformers.library import class_named, class_of
from natsel.integrations.transformers.pretrained import dense_model, pretrained

__all__ = ["class_named", "class_of", "dense_model", "example_inputs", "pretrained"]
