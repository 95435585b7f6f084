"""Conversion with a trained model. Nothing here needs torch, except ``torch_engine``."""

from vconv.inference.analysis import Extraction
from vconv.inference.converter import Converter
from vconv.inference.loading import load

__all__ = ["Converter", "Extraction", "load"]
