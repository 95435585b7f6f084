"""Damage to bytes, to text, and to trees of lists and mappings; all of it drawn from a generator."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**60, -(2**60), 2**64, 10**400)
VALUES = (
    *NUMBERS,
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "x",
    "\0",
    None,
    True,
    [],
    {},
)
TEXTS = (
    "\0",
    "\t",
    "\n",
    "\r\n",
    "\ufeff",
    "\u2028",
    "'",
    '"',
    ",",
    "=1+1",
    "-1",
    "nan",
    "inf",
    "1e999",
    "../..",
    "/",
    "ä",
)


def pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes, half of them within the first 128 bytes, where headers are."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if not out:
            break
        place = int(rng.integers(min(len(out), 128) if rng.random() < 0.5 else len(out)))
        size = int(2 ** rng.uniform(0, 12))
        kind = int(rng.integers(8))
        if kind == 0:
            out[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[place] = int(rng.integers(256))
        elif kind == 2:
            del out[place:]
        elif kind == 3:
            out[place : place + size] = bytes(len(out[place : place + size]))
        elif kind == 4:
            out[place : place + size] = rng.bytes(size)
        elif kind == 5:
            out[place:place] = out[:size]
        elif kind == 6:
            del out[place : place + size]
        else:
            width = pick(rng, (2, 4, 8))
            number = pick(rng, NUMBERS) % 256**width
            out[place : place + width] = number.to_bytes(width, pick(rng, ("little", "big")))
    return bytes(out)


def damage_text(text: str, rng: np.random.Generator) -> bytes:
    """Changes to characters and lines, now and then to the bytes that encode them."""
    for _ in range(int(rng.integers(1, 4))):
        place, size = int(rng.integers(len(text) + 1)), int(2 ** rng.uniform(0, 6))
        kind = int(rng.integers(5))
        if kind == 0:
            text = text[:place] + pick(rng, TEXTS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + size :]
        elif kind == 2:
            text = text[:place] + text[place : place + size] * int(rng.integers(2, 30)) + text[place:]
        elif kind == 3:
            text = text[:place] + str(pick(rng, NUMBERS))[:30] + text[place + size :]
        else:
            lines = text.split("\n")
            lines.insert(int(rng.integers(len(lines) + 1)), pick(rng, lines))
            text = "\n".join(lines)
    data = text.encode("utf-8", "surrogatepass")
    return damage(data, rng) if rng.random() < 0.2 else data


def damage_tree(tree: Any, rng: np.random.Generator) -> Any:
    """One to three values of nested lists and mappings replaced, removed, renamed or wrapped many times."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        holder = pick(rng, _holders(tree) or [{}])
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key, kind = pick(rng, keys), int(rng.integers(6))
        if kind <= 2:
            holder[key] = pick(rng, VALUES)
        elif kind == 3:
            del holder[key]
        elif kind == 4 and isinstance(holder, dict):
            holder[pick(rng, ("", "x", "__class__", f"{key}s"))] = holder[key]
        else:
            for _ in range(pick(rng, (1, 3, 100, 500))):
                holder[key] = [holder[key]] if kind == 4 else {"a": holder[key]}
    return tree


def _holders(tree: Any) -> list[Any]:
    """The lists and mappings of a tree, at any depth."""
    found, todo = [], [tree]
    while todo:
        holder = todo.pop()
        if isinstance(holder, (dict, list)):
            found.append(holder)
            todo += holder.values() if isinstance(holder, dict) else holder
    return found
