"""Frozen networks of third parties, as ONNX graphs at run time: ASR features, speaker embedding, pitch."""
