"""Voice conversion: what one recording says, in the voice of another.

>>> import vconv
>>> converter = vconv.load()  # doctest: +SKIP
>>> wave = converter.convert("source.wav", "target.wav")  # 24 kHz float32  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vconv.inference import Converter, load

__all__ = ["load", "Converter", "__version__"]


def __getattr__(name: str) -> object:
    # numpy and soundfile take longer to import than `vconv --help` may take to answer.
    if name in ("load", "Converter"):
        from vconv import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'vconv' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
