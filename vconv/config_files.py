"""Configurations as mappings in YAML files: read with their bases and overrides, merged, written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vconv.config import T, build, shown
from vconv.errors import InputError


def assign(mapping: dict[str, Any], assignment: str) -> None:
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
    try:
        mapping[last] = yaml.safe_load(text)
    except (yaml.YAMLError, *_TOO_MUCH) as error:
        raise InputError(f"--set {assignment[:80]}: not a value in YAML ({_line(error)})") from None


_TOO_MUCH = (ValueError, OverflowError, RecursionError)  # what a YAML file can ask for, in numbers, dates and depth


def load_yaml(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with its ``base: other.yaml`` beneath it and ``overrides`` on top.

    Raises:
        InputError: the file is missing or not a YAML mapping, or an override is malformed.
    """
    mapping = _with_base(path, ())
    for assignment in overrides:
        assign(mapping, assignment)
    return mapping


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in a YAML file over that of its base; ``above`` are the files that it is a base of."""
    mapping = _read_yaml(path)
    base = mapping.pop("base", None)
    if not base:
        return mapping
    if not isinstance(base, str):
        raise InputError(f"{path}: base: expected a file, got {shown(base)}")
    files = (*above, path.resolve())
    if (path.parent / base).resolve() in files:
        raise InputError(f"{path}: base: {base} is a base of itself; take it out")
    return merge(_with_base(path.parent / base, files), mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except (OSError, yaml.YAMLError, *_TOO_MUCH) as error:
        raise InputError(f"{path}: not a readable YAML file: {_line(error)}") from None
    if not isinstance(mapping, dict):
        raise InputError(f"{path}: expected a mapping of settings")
    return mapping


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def to_yaml(config: Any) -> str:
    """A configuration as YAML, defaults included; ``load_yaml`` and ``build`` read it back."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Mappings in blocks, lists in a line."""

    Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, True))
    return yaml.dump(_plain(dataclasses.asdict(config)), Dumper=Dumper, sort_keys=False, width=110)


def _plain(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def override(config: T, assignments: Sequence[str]) -> T:
    """A dataclass with ``a.b=value`` set in it.

    Raises:
        InputError: an assignment is malformed, of an unknown key, or of a wrong value.
    """
    mapping = dataclasses.asdict(config)
    for assignment in assignments:
        assign(mapping, assignment)
    return build(type(config), mapping, "--set")


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result
