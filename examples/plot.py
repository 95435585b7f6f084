"""Draw source, target and result of a conversion: spectrograms up to 12 kHz with the F0 curve on them.

    python examples/plot.py                 # writes examples/conversion.png
    python examples/plot.py --source a.wav --target b.wav --output picture.png
    python examples/plot.py --pairs pairs.csv --before old-model/ --model new-model/ --output pictures/

With --before, the result of another model is a panel of its own. Of a table with the columns source and target, as for
`vconv evaluate`, each row makes a picture; its column `converted`, where there is one, takes the place of --before.
Needs matplotlib, which `pip install 'vconv[dev]'` brings along.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.lib.stride_tricks import sliding_window_view

import vconv
from vconv import audio
from vconv.evaluation.pairs import read_pairs
from vconv.features import FRAME_RATE, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.pitch import PitchTracker

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


def picture(waves: dict[str, np.ndarray], tracker: PitchTracker, output: Path) -> None:
    """A panel for each titled wave, at 24 kHz, one below the other."""
    figure, panels = plt.subplots(len(waves), 1, figsize=(9, 2.35 * len(waves)), layout="constrained")
    seconds = max(len(wave) for wave in waves.values()) / OUTPUT_RATE
    for panel, (title, wave) in zip(panels, waves.items()):
        draw(panel, title, audio.normalize(wave, OUTPUT_RATE), tracker)
        panel.set_xlim(0, seconds)
        panel.set_facecolor("black")
    panels[-1].set_xlabel("seconds")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)
    print(f"wrote {output}")


def jobs(args: argparse.Namespace) -> Iterator[tuple[Path, Path, Path | None, Path]]:
    """Source, target, an older result if there is one, and where the picture goes."""
    if args.pairs is None:
        yield args.source, args.target, None, args.output or HERE / "conversion.png"
        return
    for row in read_pairs(args.pairs).good:
        name = f"{row.line:03d}_{row.source.stem}_as_{row.target.stem}.png"
        yield row.source, row.target, row.converted, (args.output or Path("pictures")) / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=HERE / "source.flac")
    parser.add_argument("--target", type=Path, default=HERE / "target.flac")
    parser.add_argument("--pairs", type=Path, help="table of pairs, in place of --source and --target")
    parser.add_argument("--output", type=Path, help="the picture; with --pairs their folder")
    parser.add_argument("--model", type=Path, help="model folder; default: the included weights")
    parser.add_argument("--before", type=Path, help="model folder, whose results are drawn as well")
    args = parser.parse_args()

    tracker = PitchTracker()
    model, before = vconv.load(args.model), vconv.load(args.before) if args.before else None
    for source, target, older, output in jobs(args):
        waves = {f"source: {source.name}": audio.read(source, OUTPUT_RATE)[0]}
        if older or before:
            waves["before"] = audio.read(older, OUTPUT_RATE)[0] if older else before.convert(source, target)
        waves[f"result: what {source.stem} says in the voice of {target.stem}"] = model.convert(source, target)
        waves[f"target: {target.name}"] = audio.read(target, OUTPUT_RATE)[0]
        picture(waves, tracker, output)


if __name__ == "__main__":
    main()
