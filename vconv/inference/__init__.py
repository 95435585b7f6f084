"""Conversion with a trained model. Nothing here needs torch, except ``torch_engine``."""

from vconv.inference.converter import Converter, Extraction
from vconv.inference.loading import load
from vconv.inference.mixing import mix
from vconv.inference.units import Units
from vconv.inference.voice import Voice

__all__ = ["Converter", "Extraction", "Units", "Voice", "load", "mix"]
