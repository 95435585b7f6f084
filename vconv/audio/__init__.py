"""Audio in and out: reading, resampling, loudness, trimming and atomic writing. Nothing here needs torch.

Waves are mono float32 arrays [N] with full scale at 1.0.
"""

from vconv.audio.finding import READ_SUFFIXES, find_audio, is_audio_name, no_audio_in, walk_audio
from vconv.audio.level import (
    ACTIVE_RANGE_DB,
    MIN_SECONDS,
    REFERENCE_LOUDNESS_DB,
    SILENCE_DB,
    TRIM_MARGIN,
    LoudnessMeter,
    active_loudness,
    gain,
    is_active,
    is_silent,
    loudness,
    normalize,
    trim_silence,
    without_offset,
)
from vconv.audio.reading import BlockReader, Source, join, read, source_name
from vconv.audio.resampling import resample, scaled_length
from vconv.audio.writing import (
    TEMPORARY_FILES,
    WRITE_FORMATS,
    AudioWriter,
    check_fits,
    check_writable,
    write,
    write_to_stdout,
)

__all__ = [
    "ACTIVE_RANGE_DB",
    "MIN_SECONDS",
    "READ_SUFFIXES",
    "REFERENCE_LOUDNESS_DB",
    "SILENCE_DB",
    "TEMPORARY_FILES",
    "TRIM_MARGIN",
    "WRITE_FORMATS",
    "AudioWriter",
    "BlockReader",
    "LoudnessMeter",
    "Source",
    "active_loudness",
    "check_fits",
    "check_writable",
    "find_audio",
    "gain",
    "is_active",
    "is_audio_name",
    "is_silent",
    "join",
    "loudness",
    "no_audio_in",
    "normalize",
    "read",
    "resample",
    "scaled_length",
    "source_name",
    "trim_silence",
    "walk_audio",
    "without_offset",
    "write",
    "write_to_stdout",
]
