"""Clips for a page: a spectrogram as PNG, the F0 curve as an SVG path, the sound as MP3."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import soundfile

from vconv import audio, features

SOUND_RATE = 24000  # Hz of the players
F0_RANGE = (60.0, 600.0)  # Hz from the bottom to the top of a picture
RANGE_DB = 65.0  # from the brightest to the darkest


def spectrogram_png(wave: np.ndarray) -> bytes:
    """The log-mel of a 16 kHz wave, low bands at the bottom: 8 bits through a palette whose lightness rises evenly."""
    from matplotlib import colormaps
    from PIL import Image

    decibels = features.DB_PER_NEPER * features.log_mel(audio.normalize(wave, features.SAMPLE_RATE))
    level = np.clip(1 + (decibels - decibels.max()) / RANGE_DB, 0, 1)
    picture, out = Image.fromarray(np.round(255 * level[::-1]).astype(np.uint8)), io.BytesIO()
    picture.putpalette(colormaps["inferno"](range(256), bytes=True)[:, :3].tobytes())
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


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
