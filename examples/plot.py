"""Draw source, target and result of a conversion: spectrograms up to 12 kHz with the F0 curve on them.

    python examples/plot.py                 # writes examples/conversion.png
    python examples/plot.py --source a.wav --target b.wav --output picture.png

Needs matplotlib, which `pip install 'vconv[dev]'` brings along.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.lib.stride_tricks import sliding_window_view

import vconv
from vconv import audio
from vconv.features import FRAME_RATE, OUTPUT_RATE, SAMPLE_RATE, PitchTracker

HERE = Path(__file__).parent
N_FFT, HOP = 1024, 192  # samples at 24 kHz
DYNAMIC_RANGE_DB = 90.0
F0_TICKS = (60, 100, 150, 250, 400)  # Hz
F0_COLOR = "#59e3ff"


def spectrogram_db(wave: np.ndarray) -> np.ndarray:
    """Power of a wave, [N] -> [bins, frames] dB."""
    frames = sliding_window_view(np.pad(wave, N_FFT // 2), N_FFT)[::HOP] * np.hanning(N_FFT)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-6)


def draw(axes: Axes, title: str, wave: np.ndarray, tracker: PitchTracker) -> None:
    """One panel: log spectrogram of a 24 kHz wave [N], and its F0 on an axis of its own at the right."""
    picture = spectrogram_db(wave)
    extent = (0, len(wave) / OUTPUT_RATE, 0, OUTPUT_RATE / 2)
    limits = {"vmin": picture.max() - DYNAMIC_RANGE_DB, "vmax": picture.max()}
    axes.imshow(picture, origin="lower", aspect="auto", extent=extent, cmap="magma", **limits)
    axes.set(ylabel="kHz", ylim=(0, OUTPUT_RATE / 2), yticks=range(0, 12001, 4000))
    axes.set_yticklabels(["0", "4", "8", "12"])
    axes.set_title(title, loc="left", fontsize=10)
    f0 = tracker(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE))
    right = axes.twinx()
    right.plot(np.arange(len(f0)) / FRAME_RATE, np.where(f0 > 0, f0, np.nan), color=F0_COLOR, linewidth=1.6)
    right.set_yscale("log")
    right.set(ylabel="F0 in Hz", ylim=(50, 1600), yticks=F0_TICKS)
    right.set_yticklabels([str(tick) for tick in F0_TICKS])
    right.minorticks_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=HERE / "source.flac")
    parser.add_argument("--target", type=Path, default=HERE / "target.flac")
    parser.add_argument("--output", type=Path, default=HERE / "conversion.png")
    parser.add_argument("--model", type=Path, help="model folder; default: the weights that came along")
    args = parser.parse_args()

    tracker = PitchTracker()
    waves = {
        f"source: {args.source.name}": audio.read(args.source, OUTPUT_RATE)[0],
        f"result: what {args.source.stem} says in the voice of {args.target.stem}": vconv.load(args.model).convert(
            args.source, args.target
        ),
        f"target: {args.target.name}": audio.read(args.target, OUTPUT_RATE)[0],
    }
    figure, panels = plt.subplots(len(waves), 1, figsize=(9, 7), layout="constrained")
    seconds = max(len(wave) for wave in waves.values()) / OUTPUT_RATE
    for panel, (title, wave) in zip(panels, waves.items()):
        draw(panel, title, audio.normalize(wave, OUTPUT_RATE), tracker)
        panel.set_xlim(0, seconds)
        panel.set_facecolor("black")
    panels[-1].set_xlabel("seconds")
    figure.savefig(args.output, dpi=110)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
