"""CAM++ as 3D-Speaker trained it, as ``speaker_encoder.safetensors``, for losses and as `speaker: pretrained`.

    python recipes/base/speaker_encoder.py campplus_cn_en_common.pt -o speaker_encoder.safetensors

README.md beside this file says where the file comes from. Of the pickled checkpoint nothing but tensors is read.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vconv.errors import InputError, run_script
from vconv.models.pretrained.campplus import CamPlusPlus, CamPlusPlusConfig, save_campplus

EPSILON = 1e-5  # of its batch norms


def read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a checkpoint of tensors ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(state, dict) or "xvector.tdnn.linear.weight" not in state:
        raise InputError(f"{path}: not a checkpoint of CAM++")
    return state


class Folding:
    """A checkpoint's tensors, convolutions together with the batch norms behind them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state, self.found = state, {}

    def affine(self, norm: str) -> tuple[Tensor, Tensor]:
        """Scale and shift of a batch norm: each [C]"""
        mean, variance = self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"]
        scale = self.state.get(f"{norm}.weight", torch.ones_like(mean)) / (variance + EPSILON).sqrt()
        return scale, self.state.get(f"{norm}.bias", torch.zeros_like(mean)) - mean * scale

    def folded(self, name: str, layer: str, norm: str) -> None:
        scale, shift = self.affine(norm)
        weight = self.state[f"{layer}.weight"]
        bias = self.state.get(f"{layer}.bias", torch.zeros_like(shift))
        self.found[f"{name}.weight"] = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        self.found[f"{name}.bias"] = bias * scale + shift

    def copied(self, name: str, layer: str) -> None:
        for part in ("weight", "bias"):
            if f"{layer}.{part}" in self.state:
                self.found[f"{name}.{part}"] = self.state[f"{layer}.{part}"]

    def alone(self, name: str, norm: str) -> None:
        for part, value in zip(("scale", "shift"), self.affine(norm)):
            self.found[f"{name}.{part}"] = value[:, None]


def convert(state: dict[str, Tensor]) -> CamPlusPlus:
    folding = Folding(state)
    folding.folded("input", "head.conv1", "head.bn1")
    folding.folded("last_map", "head.conv2", "head.bn2")
    for number, place in enumerate(("layer1.0", "layer1.1", "layer2.0", "layer2.1")):
        folding.folded(f"maps.{number}.first", f"head.{place}.conv1", f"head.{place}.bn1")
        folding.folded(f"maps.{number}.second", f"head.{place}.conv2", f"head.{place}.bn2")
        if f"head.{place}.shortcut.0.weight" in state:
            folding.folded(f"maps.{number}.shortcut", f"head.{place}.shortcut.0", f"head.{place}.shortcut.1")
    folding.folded("frames", "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm")
    counts = [0, 0, 0]
    for name in state:
        if match := re.fullmatch(r"xvector\.block(\d)\.tdnnd(\d+)\.linear1\.weight", name):
            counts[int(match[1]) - 1] = max(counts[int(match[1]) - 1], int(match[2]))
    for block, count in enumerate(counts):
        for k in range(count):
            name, layer = f"blocks.{block}.{k}", f"xvector.block{block + 1}.tdnnd{k + 1}"
            folding.alone(f"{name}.before", f"{layer}.nonlinear1.batchnorm")
            folding.folded(f"{name}.narrow", f"{layer}.linear1", f"{layer}.nonlinear2.batchnorm")
            folding.copied(f"{name}.local", f"{layer}.cam_layer.linear_local")
            folding.copied(f"{name}.squeeze", f"{layer}.cam_layer.linear1")
            folding.copied(f"{name}.excite", f"{layer}.cam_layer.linear2")
        folding.alone(f"transitions.{block}.0", f"xvector.transit{block + 1}.nonlinear.batchnorm")
        folding.copied(f"transitions.{block}.1", f"xvector.transit{block + 1}.linear")
    folding.alone("last", "xvector.out_nonlinear.batchnorm")
    folding.folded("output", "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")
    folding.found["output.weight"] = folding.found["output.weight"].flatten(1)
    speaker_encoder = CamPlusPlus(
        CamPlusPlusConfig(layers=tuple(counts), embedding_channels=len(folding.found["output.bias"]))
    )
    speaker_encoder.load_state_dict(folding.found)
    return speaker_encoder


def make(checkpoint: Path, output: Path) -> None:
    save_campplus(output, convert(read(checkpoint)))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    return run_script("error", lambda: make(options.checkpoint, options.output))


if __name__ == "__main__":
    raise SystemExit(main())
