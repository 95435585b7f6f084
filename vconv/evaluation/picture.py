"""Clips for a page: a spectrogram as PNG, the F0 curve as an SVG path, the sound as MP3."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import soundfile

from vconv import audio, features

SOUND_RATE = 24000  # Hz of the players
F0_RANGE = (60.0, 600.0)  # Hz from the bottom to the top of a picture
RANGE_DB = 65.0  # from the brightest to the darkest
# Anchors of a palette from dark to light whose lightness rises evenly, so that level reads without colour.
_COLOURS = ((8, 10, 24), (54, 22, 92), (128, 36, 116), (202, 66, 92), (246, 134, 62), (252, 218, 120), (255, 252, 230))


def spectrogram_png(wave: np.ndarray) -> bytes:
    """The log-mel of a 16 kHz wave, low bands at the bottom: 8 bits through a palette."""
    decibels = 20 / math.log(10) * features.log_mel(audio.normalize(wave, features.SAMPLE_RATE))
    level = np.clip(1 + (decibels - decibels.max()) / RANGE_DB, 0, 1)
    return png(np.round(255 * level[::-1]).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """Pixels [height, width] uint8 as places in the palette."""
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # a line begins with its filter, none
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""),
    )  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _palette() -> bytes:
    anchors = np.array(_COLOURS, float)
    at = np.linspace(0, len(anchors) - 1, 256)
    colours = np.stack([np.interp(at, range(len(anchors)), part) for part in anchors.T], axis=1)
    return colours.round().astype(np.uint8).tobytes()


def f0_path(f0: Sequence[float], width: float = 1000, height: float = 100) -> str:
    """Commands of an SVG path: a line for every voiced stretch, on a log scale over the whole picture."""
    low, high = np.log2(F0_RANGE)
    commands = []
    pen_down = False
    for frame, hz in enumerate(f0):
        if hz <= 0:
            pen_down = False
            continue
        place = (high - min(max(math.log2(hz), low), high)) / (high - low)
        x = width * (frame + 0.5) / len(f0)
        commands.append(f"{'L' if pen_down else 'M'}{x:.1f} {height * place:.1f}")
        pen_down = True
    return "".join(commands)


def mp3(wave: np.ndarray, rate: int) -> bytes:
    """A wave [N] within full scale as MP3, which every browser plays."""
    wave = audio.resample(wave, rate, SOUND_RATE)
    wave = wave / max(float(np.abs(wave).max(initial=0.0)), 1.0)
    out = io.BytesIO()
    soundfile.write(out, wave, SOUND_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return out.getvalue()


def data_uri(kind: str, content: bytes) -> str:
    """So that a page holds what it shows."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
