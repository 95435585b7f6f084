#!/usr/bin/env python3
"""Train the network that tracks F0, and write it as an ONNX graph: ``train.py corpus.tsv -o pitch.onnx``.

The teacher, swift-f0, labels clean recordings; the network learns the same labels from recordings with noise, other
talkers and rooms, played faster or slower. A share of the crops is synthetic: filtered pulse trains, whose F0 is known
and covers all of the range. The labelled recordings are kept in OUTPUT.work, for the next run, and so are the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vconv import audio
from vconv.audio.resampling import fit_length
from vconv.data.augmentation.recording import BABBLE_VOICES, DisturbConfig, surround
from vconv.data.augmentation.wave import colored
from vconv.data.manifest import TRAIN, VALID, read_manifest
from vconv.data.store import WAVE_SCALE, read_sound
from vconv.errors import InputError, run_script
from vconv.excitation import PulseTrain
from vconv.export.traced import Network
from vconv.export.tracing import store_in_half, trace, without_lengths
from vconv.features import (
    F0_MAX,
    F0_MIN,
    F0_REFERENCE,
    HOP_LENGTH,
    OUTPUT_RATE,
    PITCH_BINS,
    PITCH_STEPS,
    SAMPLE_RATE,
    frame_count,
    log_mel,
    low_spectrum,
    pitch_step,
)
from vconv.files import replacing, write_text
from vconv.frontends.pitch import CONFIDENCE, f0_above, low_level, pitch_of, voicing_threshold
from vconv.models.pitch import PitchNetwork

FRAMES = 200  # of a crop, 3.2 s
ITEMS = 24  # crops of a batch
SYNTHETIC = 0.12  # share of the crops
RATE_OCTAVES = 0.5  # recordings are played that much faster or slower at most
GAIN_DB = (-30.0, 10.0)
DISTURB = DisturbConfig(clean=0.3, reverb=0.2, babble=0.5, noise=0.4, clipping=0.1, band_limit=0.15)
SPREAD = 1.0  # steps: standard deviation of the target's distribution
VOICING_WEIGHT = 2.0
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 2e-3, 100, 1e-3
VALIDATION_CLIPS = 48


# ---------------------------------------------------------------- labelled recordings


@dataclass(frozen=True)
class Labelled:
    """Recordings at 16 kHz and their F0 in Hz, 0 where unvoiced, one after another."""

    waves: np.ndarray  # int16, ``WAVE_SCALE`` steps to 1.0
    f0: np.ndarray  # float32
    clips: list[tuple[int, int, int, int, str]]  # first sample, samples, first frame, frames, split

    def crop(self, clip: int, frame: int, frames: int) -> np.ndarray:
        """[frames * HOP_LENGTH] from a frame on, silence after the clip's end."""
        start, samples, *_ = self.clips[clip]
        begin = frame * HOP_LENGTH
        wave = self.waves[start + begin : start + min(samples, begin + frames * HOP_LENGTH)]
        return fit_length(wave.astype(np.float32) / WAVE_SCALE, frames * HOP_LENGTH)


def label(manifest: Path, folder: Path) -> Labelled:
    """Those of a manifest's clips; made once, and read from the folder after that."""
    index = folder / "index.json"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(index, json.dumps(_label(manifest, folder)))
    waves, f0 = (np.memmap(folder / name, kind, "r") for name, kind in (("waves", np.int16), ("f0", np.float32)))
    return Labelled(waves, f0, [tuple(clip) for clip in json.loads(index.read_text())])


def _label(manifest: Path, folder: Path) -> list[tuple[int, int, int, int, str]]:
    from swift_f0 import SwiftF0

    teacher, found, sample, frame = SwiftF0(threads=1), [], 0, 0
    with (folder / "waves").open("wb") as waves, (folder / "f0").open("wb") as labels:
        for clip in read_manifest(manifest):
            if clip.split not in (TRAIN, VALID):
                continue
            try:
                wave = read_sound(str(clip.path), trim=not clip.group).narrow
            except InputError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            f0, steps = teach(teacher, wave), np.round(wave * WAVE_SCALE)
            np.clip(steps, -32768, 32767).astype(np.int16).tofile(waves)
            f0.tofile(labels)
            found.append((sample, len(wave), frame, len(f0), clip.split))
            sample, frame = sample + len(wave), frame + len(f0)
            if len(found) % 500 == 0:
                print(f"{len(found)} clips labelled", flush=True)
    return found


def teach(teacher: object, wave: np.ndarray) -> np.ndarray:
    """F0 in Hz by swift-f0 where it stands out of the background: [N] -> [T] float32"""
    padded = fit_length(wave, frame_count(len(wave)) * HOP_LENGTH)
    found = teacher.detect(padded, SAMPLE_RATE, F0_MIN, F0_MAX)
    level = low_level(log_mel(wave))
    return f0_above(np.stack([found.pitch_hz, found.confidence, level]), voicing_threshold(level))


# ---------------------------------------------------------------- batches


class Sampler:
    def __init__(self, corpus: Labelled, split: str, seed: int) -> None:
        self.corpus, self.rng = corpus, np.random.default_rng(seed)
        self.clips = [index for index, clip in enumerate(corpus.clips) if clip[4] == split]
        if not self.clips:
            raise InputError(f"no clip of the split '{split}'; make the manifest with vconv prepare")
        frames = np.array([corpus.clips[index][3] for index in self.clips], float)
        self._shares = frames / frames.sum()

    def batch(self, items: int, disturb: bool = True, synthetic: float = SYNTHETIC) -> tuple[np.ndarray, np.ndarray]:
        """Spectra [B, PITCH_BINS, FRAMES] and F0 [B, FRAMES] in Hz, 0 where unvoiced."""
        pairs = []
        for clip in self.rng.choice(self.clips, items, p=self._shares):
            wave, f0 = self._synthetic() if self.rng.random() < synthetic else self._recorded(int(clip), disturb)
            pairs.append((low_spectrum(self._disturbed(wave) if disturb else wave), f0))
        return tuple(np.stack(arrays).astype(np.float32) for arrays in zip(*pairs))

    def _recorded(self, clip: int, moved: bool) -> tuple[np.ndarray, np.ndarray]:
        rate = 2 ** self.rng.uniform(-RATE_OCTAVES, RATE_OCTAVES) if moved else 1.0
        *_, first, frames, _ = self.corpus.clips[clip]
        needed = int(np.ceil(FRAMES * rate)) + 2
        start = int(self.rng.integers(0, max(1, frames - needed // 2)))
        wave = self.corpus.crop(clip, start, needed)
        if moved:
            wave = audio.resample(wave, round(SAMPLE_RATE * rate), SAMPLE_RATE)
        places = start + np.round(np.arange(FRAMES) * rate).astype(int)
        f0 = self.corpus.f0[first + np.minimum(places, frames - 1)] * (places < frames)
        return fit_length(wave, FRAMES * HOP_LENGTH), f0 * rate

    def _synthetic(self) -> tuple[np.ndarray, np.ndarray]:
        """A pulse train with vibrato and slow glides through random resonances, with pauses."""
        rng, time = self.rng, np.arange(FRAMES) * HOP_LENGTH / SAMPLE_RATE
        vibrato = rng.uniform(0, 0.08) * np.sin(2 * np.pi * (rng.uniform(4, 7) * time + rng.random()))
        glide = np.interp(time, np.linspace(0, time[-1], 6), rng.normal(0, 0.15, 6))
        octaves = np.clip(rng.uniform(0, np.log2(F0_MAX / F0_MIN)) + glide + vibrato, 0.0, np.log2(F0_MAX / F0_MIN))
        f0 = F0_MIN * 2**octaves
        pulses = PulseTrain(np.log2(f0 / F0_REFERENCE)).samples(0, FRAMES)
        wave = fit_length(audio.resample(pulses, OUTPUT_RATE, SAMPLE_RATE), FRAMES * HOP_LENGTH)
        spectrum, hertz = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
        gain = np.maximum(hertz, 100.0) ** -rng.uniform(0.3, 1.5)
        for middle in rng.uniform([250, 800, 2000], [900, 2500, 3500]):
            gain *= 1 + rng.uniform(1, 8) / (1 + ((hertz - middle) / rng.uniform(50, 200)) ** 2)
        voiced = np.repeat(rng.random(FRAMES // 20 + 1) < 0.75, 20)[:FRAMES]
        envelope = np.interp(np.arange(len(wave)) / HOP_LENGTH, np.arange(FRAMES), voiced.astype(float))
        wave = np.fft.irfft(spectrum * gain, len(wave)) * envelope
        wave = audio.normalize(wave, SAMPLE_RATE) if voiced.any() else wave
        return wave + 10 ** rng.uniform(-4, -2.5) * colored(len(wave), 0.5, rng), f0 * voiced

    def _disturbed(self, wave: np.ndarray) -> np.ndarray:
        crowd = self.rng.choice(self.clips, int(self.rng.integers(1, BABBLE_VOICES + 1)))
        others = [self.corpus.crop(int(clip), 0, FRAMES) for clip in crowd]
        return surround(wave, self.rng, others, DISTURB) * 10 ** (self.rng.uniform(*GAIN_DB) / 20)


# ---------------------------------------------------------------- training


def loss_of(network: PitchNetwork, spectrum: Tensor, f0: Tensor) -> Tensor:
    scores, voicing = network.scores(spectrum)
    voiced = f0 > 0
    known = voiced & (f0 >= F0_MIN) & (f0 <= F0_MAX)
    place = torch.from_numpy(pitch_step(f0.clamp_min(F0_MIN / 2).numpy()))[..., None]
    wanted = torch.exp(-0.5 * ((torch.arange(PITCH_STEPS) - place) / SPREAD) ** 2)
    wanted = wanted / wanted.sum(-1, keepdim=True).clamp_min(1e-6)
    pitch = -(wanted * F.log_softmax(scores, -1)).sum(-1)[known].mean()
    return pitch + VOICING_WEIGHT * F.binary_cross_entropy_with_logits(voicing, voiced.float())


@torch.no_grad()
def measure(network: PitchNetwork, spectra: np.ndarray, f0: np.ndarray) -> str:
    """Voiced frames missed and unvoiced ones taken for voiced, errors over 200 cents, and the median error."""
    scores, voicing = (one.numpy() for one in network.eval()(torch.from_numpy(spectra)))
    network.train()
    found, voiced = voicing >= CONFIDENCE, f0 > 0
    both = voiced & found
    cents = 1200 * np.abs(np.log2(pitch_of(scores[both]) / f0[both]))
    missed, false = (voiced & ~found).sum() / voiced.sum(), (found & ~voiced).sum() / (~voiced).sum()
    return (
        f"missed {missed:.3f} false {false:.3f} over 200 cents {(cents > 200).mean():.4f} median {np.median(cents):.1f}"
    )


def train(
    corpus: Labelled, steps: int, keep: Path, start_from: Path | None = None, rate: float = LEARNING_RATE, seed: int = 0
) -> PitchNetwork:
    """The network, whose weights go to the file ``keep`` at each line of figures."""
    torch.manual_seed(seed)
    network, sampler, begun = PitchNetwork(), Sampler(corpus, TRAIN, seed), time.monotonic()
    if start_from:
        network.load_state_dict(load_file(start_from))
    optimizer = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)
    held_out = {
        name: Sampler(corpus, VALID, seed + 1).batch(VALIDATION_CLIPS, disturb, synthetic=0.0)
        for name, disturb in (("clean", False), ("disturbed", True))
    }
    for step in range(1, steps + 1):
        share = min(1.0, step / WARMUP) * (0.01 + 0.99 * (1 + np.cos(np.pi * step / steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        loss = loss_of(network, *map(torch.from_numpy, sampler.batch(ITEMS)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps:
            figures = "; ".join(f"{name}: {measure(network, *batch)}" for name, batch in held_out.items())
            seconds = (time.monotonic() - begun) / step
            print(f"step {step} loss {loss.item():.3f} {figures} ({seconds:.2f} s a step)", flush=True)
            with replacing(keep) as temporary:
                save_file(network.state_dict(), temporary)
    return network


def write(network: PitchNetwork, path: Path) -> None:
    for parameter in network.parameters():  # as the graph keeps them
        parameter.data = parameter.data.half().float()
    frames = torch.export.Dim("frames", min=4, max=1 << 20)
    shapes = {"spectrum": {2: frames}}
    inputs = {"spectrum": torch.randn(1, PITCH_BINS, 100)}
    graph = store_in_half(without_lengths(trace(Network(network, inputs, ["scores", "voicing"], shapes))))
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="of vconv prepare")
    parser.add_argument("-o", "--output", type=Path, required=True, help="ONNX graph")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="OUTPUT.work/network.safetensors of another run"
    )
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    arguments = parser.parse_args(words)

    def make() -> None:
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        work = arguments.output.with_suffix(".work")
        corpus, keep = label(arguments.manifest, work), work / "network.safetensors"
        write(train(corpus, arguments.steps, keep, arguments.start_from, arguments.learning_rate), arguments.output)

    return run_script("train", make)


if __name__ == "__main__":
    sys.exit(main())
