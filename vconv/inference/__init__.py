"""Conversion with a trained model. Nothing here needs torch, except ``torch_engine``."""

from vconv.inference.converter import Converter, Extraction
from vconv.inference.loading import load

__all__ = ["Converter", "Extraction", "load"]
