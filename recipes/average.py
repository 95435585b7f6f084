#!/usr/bin/env python3
"""Weights between those of two checkpoints of one run: ``average.py EARLIER LATER --share 0.4 -o BETWEEN``.

Of a joint training, ``average.py CONVERSION VOCODER JOINT`` takes what it began with; one model folder serves as both.
Of a training of encoders, it is ``average.py CONVERSION ENCODERS``, and the ASR encoder that its config names. The
decoder and all else that such a training leaves alone is CONVERSION's, which may be a later one with the same encoders.

A fine-tuned model gains on what it was tuned for and loses elsewhere; on the straight line between the two lie
models that keep most of both (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3). The
result has the later one's config and step, and its optimizer's state: it is for `vconv export` and `start_from`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vconv.errors import InputError, run_script
from vconv.models.pretrained.moonshine import load_moonshine
from vconv.training import checkpoint
from vconv.training.trained import ENCODERS, JOINT, load_conversion, load_vocoder

AVERAGED = (
    "learner",
    "vocoder",
    "ema",
)  # whichever a checkpoint has; of a joint training or one of encoders, "ema"

ENCODER_PARTS = ("conversion.content.", "asr_encoder.")  # what a training of encoders changes


def between(earlier: Any, later: Any, share: float) -> Any:
    """``earlier + share * (later - earlier)`` for every tensor of floats in nested dicts; else what ``later`` has.

    Raises:
        InputError: a tensor is missing, or of another shape.
    """
    if isinstance(later, dict):
        if not isinstance(earlier, dict) or earlier.keys() != later.keys():
            raise InputError("the checkpoints hold different weights; average two of one architecture")
        return {key: between(earlier[key], later[key], share) for key in later}
    if not isinstance(later, torch.Tensor) or not later.is_floating_point():
        return later
    if earlier.shape != later.shape:
        raise InputError(f"the checkpoints hold weights of shapes {tuple(earlier.shape)} and {tuple(later.shape)}")
    return torch.lerp(earlier, later, share)


def average(earlier: Sequence[Path], later: Path, share: float, output: Path) -> None:
    """Raises InputError where a file is missing, or the checkpoints do not belong together."""
    second = checkpoint.load(later)
    if second.get("task") == JOINT:
        first, names = {"ema": before_joint(earlier[0], earlier[-1])}, ("ema",)
    elif second.get("task") == ENCODERS:
        first, names = {"ema": before_encoders(earlier[0], second["config"]["asr_encoder"])}, ("ema",)
        trained = {name: value for name, value in second["ema"].items() if name.startswith(ENCODER_PARTS)}
        second["ema"] = first["ema"] | trained
    elif len(earlier) > 1:
        raise InputError(f"{later}: is no joint training; give one earlier checkpoint")
    else:
        first, names = checkpoint.load(earlier[0]), AVERAGED
    parts = {name: between(first.get(name, {}), second[name], share) for name in names if name in second}
    checkpoint.save(output, second | parts)


def before_joint(conversion: Path, vocoder: Path) -> dict[str, torch.Tensor]:
    """The weights of both models under the names that a joint training gives them."""
    models = {"conversion": load_conversion(conversion), "vocoder": load_vocoder(vocoder)}
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def before_encoders(conversion: Path, asr_encoder: str) -> dict[str, torch.Tensor]:
    """Likewise, of a training of encoders."""
    models = {"conversion": load_conversion(conversion), "asr_encoder": load_moonshine(asr_encoder)}
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("earlier", type=Path, nargs="+", help="checkpoint; before a joint one, two or a model folder")
    parser.add_argument("later", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the way to the later one, 0 to 1")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    return run_script("error", lambda: average(options.earlier, options.later, options.share, options.output))


if __name__ == "__main__":
    sys.exit(main())
