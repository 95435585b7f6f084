"""Synthetic music and noise, from a seed: the other class of `vconv check`.

Every kind is a function of a random generator and a time axis [N] in seconds to a wave [N]; ``make`` draws one.
Within a kind pitch, timbre, tempo and level vary from seed to seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vconv.features import SAMPLE_RATE

Kind = Callable[[np.random.Generator, np.ndarray], np.ndarray]
_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))  # semitones: major, minor, pentatonic
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 5, 7))


def make(kind: str, seed: int, seconds: float) -> np.ndarray:
    """A sound of one of ``KINDS``: 16 kHz float32 [N], its peak between 0.05 and 0.9."""
    rng = np.random.default_rng([sorted(KINDS).index(kind), seed])
    wave = KINDS[kind](rng, np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return (wave / max(np.abs(wave).max(), 1e-9) * 10 ** rng.uniform(-1.3, -0.05)).astype(np.float32)


# ---------------------------------------------------------------- what sounds are made of


def _hz(semitones: float) -> float:
    """Of a note that many semitones above A2."""
    return 110.0 * 2 ** (semitones / 12)


def _tone(rng: np.random.Generator, hz: np.ndarray | float, time: np.ndarray, timbre: str) -> np.ndarray:
    """A steady tone [N]; ``hz`` may change over time [N]."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hz, time.shape)) / SAMPLE_RATE
    if timbre == "sine":
        return np.sin(phase)
    if timbre == "bell":  # frequency modulation, after Chowning (1973)
        ratio, depth = rng.choice([1.4, 2.0, 3.5]), rng.uniform(1, 5) * np.exp(-3 * (time - time[0]))
        return np.sin(phase + depth * np.sin(ratio * phase))
    top = int(min(30, 7500 / np.max(hz)))
    orders = np.arange(1, max(top, 1) + 1)
    if timbre == "square":
        levels = (orders % 2) / orders
    elif timbre == "organ":
        levels = np.isin(orders, (1, 2, 3, 4, 6, 8)) * rng.uniform(0.3, 1, len(orders))
    else:  # saw
        levels = 1 / orders
    return sum(level * np.sin(order * phase) for order, level in zip(orders, levels) if level)


def _pluck(rng: np.random.Generator, hz: float, time: np.ndarray) -> np.ndarray:
    """A plucked string: decaying partials, the high ones sooner."""
    orders = np.arange(1, int(min(20, 7500 / hz)) + 1)
    place = rng.uniform(0.1, 0.4)  # where it is plucked
    since = time - time[0]
    return sum(
        np.sin(np.pi * order * place)
        / order
        * np.exp(-(1 + 0.4 * order) * since)
        * np.sin(2 * np.pi * order * hz * time)
        for order in orders
    )


def _note(rng: np.random.Generator, hz: float, time: np.ndarray, timbre: str) -> np.ndarray:
    """A note with attack and decay over all of ``time``."""
    since = time - time[0]
    wave = _pluck(rng, hz, time) if timbre == "pluck" else _tone(rng, hz, time, timbre)
    return wave * np.minimum(1, since / 0.01) * np.exp(-rng.uniform(0.3, 4) * since) * np.minimum(1, since[::-1] / 0.02)


def _notes(rng: np.random.Generator, time: np.ndarray, timbre: str, voices: int) -> np.ndarray:
    """Notes of one scale in a steady beat, ``voices`` of them at a time."""
    beat = rng.uniform(0.12, 0.5)
    scale, root = _SCALES[rng.integers(len(_SCALES))], rng.integers(-5, 17)
    wave = np.zeros(len(time))
    for start in np.arange(0, time[-1], beat):
        length = beat * rng.choice([0.5, 1, 1, 2])
        inside = (time >= start) & (time < start + length)
        for _ in range(voices):
            if inside.sum() > 400 and rng.random() < 0.9:
                hz = _hz(root + rng.choice(scale) + 12 * rng.integers(0, 2))
                wave[inside] += _note(rng, hz, time[inside], timbre)
    return wave


def _colored(
    rng: np.random.Generator, samples: int, exponent: float, low: float = 0.0, high: float = 8000.0
) -> np.ndarray:
    """Noise [N] whose power falls with frequency to the ``exponent``, between two cut-offs in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(hz, 20.0) ** (-exponent / 2) * ((hz >= low) & (hz <= high))
    wave = np.fft.irfft(spectrum, samples)
    return wave / wave.std()


def _drum_hit(rng: np.random.Generator, drum: int, time: np.ndarray) -> np.ndarray:
    since = time - time[0]
    if drum == 0:  # bass drum: a falling tone
        return np.sin(2 * np.pi * np.cumsum(45 + 110 * np.exp(-25 * since)) / SAMPLE_RATE) * np.exp(-9 * since)
    if drum == 1:  # snare
        return (0.6 * _colored(rng, len(time), 0, 700) + np.sin(2 * np.pi * 190 * since)) * np.exp(-18 * since) * 0.4
    return 0.25 * _colored(rng, len(time), 0, 5000) * np.exp(-45 * since)  # hi-hat


# ---------------------------------------------------------------- music


def _chords(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    timbre = rng.choice(["saw", "organ", "square", "sine"])
    wave = np.zeros(len(time))
    bar = rng.uniform(0.7, 2.0)
    for start in np.arange(0, time[-1], bar):
        inside = (time >= start) & (time < start + bar)
        root, chord = rng.integers(0, 17), _CHORDS[rng.integers(len(_CHORDS))]
        fade = np.minimum(1, np.minimum(time[inside] - start, (time[inside] - start)[::-1]) / 0.05)
        wave[inside] += fade * sum(_tone(rng, _hz(root + step), time[inside], timbre) for step in chord)
    return wave


def _melody(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    return _notes(rng, time, rng.choice(["saw", "square", "sine", "organ"]), 1)


def _plucked(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    return _notes(rng, time, "pluck", rng.integers(1, 4))


def _bells(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    return _notes(rng, time, "bell", rng.integers(1, 3))


def _drums(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    wave, step = np.zeros(len(time)), rng.uniform(0.1, 0.2)
    patterns = rng.random((3, 8)) < np.array([[0.3], [0.25], [0.7]])
    patterns[0, 0] = True
    for number, start in enumerate(np.arange(0, time[-1], step)):
        inside = (time >= start) & (time < start + 0.4)
        for drum in np.flatnonzero(patterns[:, number % 8]):
            wave[inside] += _drum_hit(rng, drum, time[inside])
    return wave


def _band(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Drums, bass and something on top."""
    parts = [_drums(rng, time), _chords(rng, time), _notes(rng, time, rng.choice(["saw", "pluck", "organ"]), 1)]
    return sum(rng.uniform(0.4, 1) * part / max(np.abs(part).max(), 1e-9) for part in parts)


def _vibrato(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """A bowed string or a theremin: one tone that slides and quivers."""
    points = rng.uniform(0, 24, max(3, int(time[-1] * 2)))
    glide = np.interp(time, np.linspace(0, time[-1], len(points)), points)
    quiver = rng.uniform(0.1, 0.6) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
    return _tone(rng, 110 * 2 ** ((glide + quiver) / 12), time, rng.choice(["saw", "square"]))


# ---------------------------------------------------------------- noise and signals


def _noise(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    return _colored(rng, len(time), rng.uniform(-1, 2.2))


def _band_noise(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    low = rng.uniform(50, 3000)
    return _colored(rng, len(time), 0, low, low * rng.uniform(1.5, 4)) + 0.02 * rng.standard_normal(len(time))


def _wind(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Noise in slow gusts, as of wind, waves or traffic."""
    points = 2 + int(time[-1] * rng.uniform(0.5, 3))
    gusts = np.interp(time, np.linspace(0, time[-1], points), rng.uniform(0.1, 1, points))
    return gusts * _colored(rng, len(time), rng.uniform(0.5, 2))


def _rain(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Many small drops, crackle or fire."""
    drops = (rng.random(len(time)) < rng.uniform(20, 1500) / SAMPLE_RATE) * rng.exponential(1, len(time))
    return np.convolve(
        drops, _colored(rng, 160, 0) * np.exp(-np.arange(160) / 30), "same"
    ) + 0.02 * rng.standard_normal(len(time))


def _hum(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    mains = rng.choice([50.0, 60.0])
    wave = sum(rng.uniform(0, 1) / order * np.sin(2 * np.pi * mains * order * time) for order in range(1, 12))
    return wave + rng.uniform(0.01, 0.2) * rng.standard_normal(len(time))


def _engine(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """A motor: noise and harmonics in the rhythm of its turns."""
    turns = rng.uniform(12, 60) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.05, 0.4) * time))
    beats = 0.5 + 0.5 * np.cos(2 * np.pi * np.cumsum(turns) / SAMPLE_RATE)
    return beats**2 * _colored(rng, len(time), 1.5) + 0.5 * _tone(rng, 2 * turns, time, "saw")


def _clicks(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """A clock, typing or footsteps."""
    regular, wave = rng.random() < 0.5, np.zeros(len(time))
    gap, start = rng.uniform(0.08, 0.6), 0.05
    while start < time[-1] - 0.05:
        inside = (time >= start) & (time < start + 0.05)
        wave[inside] += _colored(rng, int(inside.sum()), rng.uniform(0, 1), 200) * np.exp(
            -rng.uniform(60, 300) * (time[inside] - start)
        )
        start += gap if regular else rng.exponential(gap) + 0.02
    return wave + 0.005 * rng.standard_normal(len(time))


def _tones(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """One to three steady tones, as of a test signal or a telephone."""
    hz = np.exp(rng.uniform(np.log(80), np.log(4000), rng.integers(1, 4)))
    return sum(_tone(rng, value, time, rng.choice(["sine", "square"])) for value in hz)


def _sweep(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """A siren: one tone up and down."""
    low, rate = rng.uniform(150, 900), rng.uniform(0.2, 3)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * rate * time)
    return _tone(rng, low * (1 + rng.uniform(0.5, 3) * swing), time, rng.choice(["sine", "square", "saw"]))


def _beeps(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """An alarm."""
    period, hz = rng.uniform(0.15, 1.0), rng.uniform(300, 3500)
    return (time % period < period * rng.uniform(0.3, 0.7)) * _tone(rng, hz, time, rng.choice(["sine", "square"]))


def _chirps(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Birds or insects: short calls that slide."""
    wave = np.zeros(len(time))
    start = 0.0
    while start < time[-1] - 0.3:
        inside = (time >= start) & (time < start + rng.uniform(0.04, 0.25))
        since = time[inside] - start
        hz = rng.uniform(1800, 5500) + rng.uniform(-8000, 8000) * since
        wave[inside] += np.sin(2 * np.pi * np.cumsum(np.clip(hz, 500, 7500)) / SAMPLE_RATE) * np.hanning(len(since))
        start += rng.uniform(0.08, 0.6)
    return wave + rng.uniform(0.002, 0.05) * _colored(rng, len(time), 1)


KINDS: dict[str, Kind] = {
    "chords": _chords,
    "melody": _melody,
    "plucked": _plucked,
    "bells": _bells,
    "drums": _drums,
    "band": _band,
    "vibrato": _vibrato,
    "noise": _noise,
    "band noise": _band_noise,
    "wind": _wind,
    "rain": _rain,
    "hum": _hum,
    "engine": _engine,
    "clicks": _clicks,
    "tones": _tones,
    "sweep": _sweep,
    "beeps": _beeps,
    "chirps": _chirps,
}
