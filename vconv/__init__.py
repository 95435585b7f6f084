"""Voice conversion: what one recording says, in the voice of another.

>>> import vconv
>>> converter = vconv.load()  # doctest: +SKIP
>>> wave = converter.convert("source.wav", "target.wav")  # 24 kHz float32  # doctest: +SKIP

A function for each command, in ``vconv.api``:

    conversion   convert, check, info
    voices       embed, embed_corpus, finetune, verify, identify, new_voice, move_voice, directions, fit_population
    tokens       encode, decode, extract
    training     prepare, train, training_config, training_costs, export_model
    evaluation   evaluate, probe, ladder, stress, measure_verification

``load`` gives a ``Converter``, which these take as ``model``, for many files. What is wrong with a file or an option
raises ``vconv.errors.InputError``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vconv.api import (
        check,
        convert,
        decode,
        directions,
        embed,
        embed_corpus,
        encode,
        evaluate,
        export_model,
        extract,
        finetune,
        fit_population,
        identify,
        info,
        ladder,
        measure_verification,
        move_voice,
        new_voice,
        probe,
        stress,
        train,
        training_config,
        training_costs,
        verify,
    )
    from vconv.data.manifest import prepare
    from vconv.inference import Converter, load

__all__ = [
    "load",
    "Converter",
    "convert",
    "check",
    "info",
    "embed",
    "embed_corpus",
    "finetune",
    "verify",
    "identify",
    "new_voice",
    "move_voice",
    "directions",
    "fit_population",
    "encode",
    "decode",
    "extract",
    "prepare",
    "train",
    "training_config",
    "training_costs",
    "export_model",
    "evaluate",
    "probe",
    "ladder",
    "stress",
    "measure_verification",
    "__version__",
]
_MODULES = {"load": "vconv.inference", "Converter": "vconv.inference", "prepare": "vconv.data.manifest"}


def __getattr__(name: str) -> object:
    # numpy and soundfile take longer to import than `vconv --help` may take to answer.
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "vconv.api")), name)
    raise AttributeError(f"module 'vconv' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
