"""Configurations as plain dataclasses, read from YAML or JSON; an unknown key is an error.

``build(cls, mapping)`` is the only way in, ``dataclasses.asdict`` the only way out.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from vconv.errors import InputError

T = TypeVar("T")

BottleneckKind = Literal["vq", "identity"]
Adversary = Literal["reversal", "alternating", "off"]
Precision = Literal["no", "bf16"]

MODEL_FORMAT = 1  # of the model folder
MODEL_CONFIG = "config.json"  # in it


@dataclasses.dataclass(frozen=True)
class BottleneckConfig:
    kind: BottleneckKind = "vq"
    groups: int = 8  # product quantization: each group has a codebook of its own
    codes: int = 256  # entries a codebook
    decay: float = 0.99  # of the codebook's moving average
    dead_code_threshold: float = 1.0  # codes used less than this in the moving average are replaced


@dataclasses.dataclass(frozen=True)
class ConversionConfig:
    """Content encoder, bottleneck, speaker encoder and decoder."""

    channels: int = 192
    expansion: int = 3  # hidden channels of a block's MLP, as a multiple
    content_blocks: tuple[int, int] = (2, 5)  # at the frame rate, at half of it
    content_channels: int = 64  # of the code
    speaker_blocks: int = 3
    embedding_channels: int = 192
    decoder_channels: int = 224
    decoder_blocks: tuple[int, int] = (1, 6)  # at half the frame rate, at the frame rate
    bottleneck: BottleneckConfig = BottleneckConfig()


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
    channels: int = 256
    expansion: int = 3
    blocks: int = 6
    subframes: int = 2  # STFT frames to one mel frame: the hop is OUTPUT_HOP / subframes, the window four hops


def _convert(kind: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type ``kind``; raises InputError where it does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a mapping, got {value!r}")
        return build(kind, value, where)
    if origin is Literal:
        if isinstance(value, bool) and not value and "off" in arguments:
            value = "off"  # YAML 1.1 reads a bare `off` as false
        if value not in arguments:
            raise InputError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (arguments[-1] is not ... and len(value) != len(arguments)):
            raise InputError(f"{where}: expected a list of {len(arguments)}, got {value!r}")
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(k, v, where) for k, v in zip(inner, value))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 1e-4 as text
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def build(cls: type[T], mapping: dict[str, Any], where: str = "config") -> T:
    """A ``cls`` with ``mapping``'s values over its defaults.

    Raises:
        InputError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    kinds = typing.get_type_hints(cls)
    for key in mapping:
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(kinds)}"
            raise InputError(f"{where}: unknown key '{key}'{hint}")
    values = {key: _convert(kinds[key], value, f"{where}: {key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None


def _set(mapping: dict[str, Any], assignment: str) -> None:
    """Apply one ``a.b=value`` to nested mappings, in place."""
    import yaml

    path, separator, text = assignment.partition("=")
    if not separator or not path:
        raise InputError(f"--set {assignment}: expected key=value, for example --set optimizer.steps=1000")
    *parents, last = path.split(".")
    for parent in parents:
        mapping = mapping.setdefault(parent, {})
        if not isinstance(mapping, dict):
            raise InputError(f"--set {assignment}: '{parent}' is not a mapping")
    mapping[last] = yaml.safe_load(text)


def load_yaml(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with its ``base: other.yaml`` beneath it and ``overrides`` on top.

    Raises:
        InputError: the file is missing or not a YAML mapping, or an override is malformed.
    """
    import yaml

    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: expected a mapping of settings")
    if base := mapping.pop("base", None):
        mapping = merge(load_yaml(path.parent / base), mapping)
    for assignment in overrides:
        _set(mapping, assignment)
    return mapping


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result
