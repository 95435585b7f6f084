"""Synthetic speech for tests: vowels of several speakers, made of harmonics under formants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 24000  # Hz
FORMANTS = {"a": (800, 1200), "i": (280, 2300), "u": (320, 800), "e": (500, 1900), "o": (480, 900)}  # Hz
VOWEL_SECONDS = 0.18
ASR_STRIDE, ASR_KERNEL = 400, 600  # samples at 16 kHz
CAMPPLUS_SIZES = {
    "maps": 4,
    "channels": 16,
    "growth": 4,
    "hidden": 8,
    "layers": (2, 1, 1),
    "embedding_channels": 12,
}
ACCENTS = {"low": "north", "middle": "north", "high": "south"}  # the child's is not known
SPEAKERS = {"low": 0.9, "middle": 1.0, "high": 1.15, "child": 1.3}  # vocal tract: factor on the formants


def speak(words: str, f0: float, tract: float, seed: int = 0) -> np.ndarray:
    """Vowels in a row on a falling melody, with short gaps and a little noise: [N] float32 at 24 kHz."""
    rng = np.random.default_rng(seed)
    pieces = []
    samples = round(VOWEL_SECONDS * RATE)
    fade = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / 480)
    for place, vowel in enumerate(words):
        pitch = f0 * (1.1 - 0.2 * place / len(words)) * np.linspace(1.02, 0.98, samples)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        wave = np.zeros(samples)
        for k in range(1, int(9000 / (1.15 * f0))):
            level = sum(1 / (1 + ((k * f0 - tract * f) / 90) ** 2) for f in FORMANTS[vowel]) + 0.003
            wave += level * np.sin(k * phase)
        pieces.append(wave * fade)
        pieces.append(np.zeros(RATE // 50))
    wave = np.concatenate(pieces)
    wave = 0.2 * wave / np.abs(wave).max() + 1e-3 * rng.normal(size=len(wave))
    return wave.astype(np.float32)


def make_corpus(folder: Path, sentences: int = 6) -> Path:
    """A corpus of parallel vowel sentences by four speakers with its manifest; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["path\tspeaker\tphones\tgroup\tsample_rate\tsplit\taccent"]
    for number in range(sentences):
        words = "".join(rng.choice(list(FORMANTS), 10))
        f0 = rng.uniform(110, 220)
        for speaker, tract in SPEAKERS.items():
            name = f"{number}_{speaker}.wav"
            soundfile.write(folder / name, speak(words, f0, tract, number), RATE)
            split = "valid" if number == sentences - 1 else "train"
            accent = ACCENTS.get(speaker, "")
            lines.append(f"{name}\t{speaker}\t{words}\t{number}\t{RATE}\t{split}\t{accent}")
    manifest = folder / "manifest.tsv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def make_asr_encoder(path: Path) -> Path:
    """An ONNX model that hears how loud each stretch is: features [1, F, 2], the loudness and four times of it."""
    from onnx import TensorProto, helper, numpy_helper, save

    kernel = np.array([1.0, 4.0], np.float32).reshape(2, 1, 1) * np.full(ASR_KERNEL, 1 / ASR_KERNEL)
    nodes = [
        helper.make_node("Mul", ["wave", "wave"], ["square"]),
        helper.make_node("Unsqueeze", ["square", "one"], ["channel"]),
        helper.make_node("Conv", ["channel", "kernel"], ["mean"], strides=[ASR_STRIDE]),
        helper.make_node("Transpose", ["mean"], ["features"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "asr_encoder",
        [helper.make_tensor_value_info("wave", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, None, 2])],
        [numpy_helper.from_array(kernel.astype(np.float32), "kernel"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {"stride": str(ASR_STRIDE), "centre": str(ASR_KERNEL // 2)})
    save(model, path)
    return path


def make_speaker_encoder(path: Path) -> Path:
    """A miniature speaker encoder with random weights."""
    import torch

    from vconv.models.pretrained.campplus import CamPlusPlus, CamPlusPlusConfig, save_campplus

    torch.manual_seed(0)
    speaker_encoder = CamPlusPlus(CamPlusPlusConfig(**CAMPPLUS_SIZES))
    for parameter in speaker_encoder.parameters():
        if parameter.dim() > 2:  # convolutions that let more through than new ones do
            parameter.data *= 3
    save_campplus(path, speaker_encoder)
    return path
