"""Augmentation: of waves, of whole recordings, of log-mels."""
