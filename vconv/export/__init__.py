"""From training checkpoints to a model folder: safetensors, config and the ONNX graphs."""

from vconv.export.folder import export, write_model
from vconv.export.traced import networks
from vconv.export.tracing import SMALLEST_HALF, store_in_half, trace, without_lengths

__all__ = ["SMALLEST_HALF", "export", "networks", "store_in_half", "trace", "without_lengths", "write_model"]
