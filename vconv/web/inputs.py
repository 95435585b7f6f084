"""What a request carries, checked: names, JSON objects and their fields."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from vconv.untrusted import parse_json

MAX_JSON_BYTES = 64 << 10
MAX_NAME = 120  # characters of a file or voice name


class Refusal(Exception):
    """A request that is not served: the HTTP status and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def json_object(request: Request, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a request's body of at most ``most`` bytes.

    Raises:
        Refusal: the body is too long, or no JSON object.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise Refusal(413, f"the request is longer than {most >> 10} KiB")
    except ClientDisconnect as error:
        raise Refusal(400, "the request ended early") from error
    try:
        value = parse_json(bytes(body))
    except ValueError as error:
        raise Refusal(400, "the request is no JSON") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the request is no JSON object")
    return value


def text(body: dict[str, Any], key: str, default: str | None = None) -> str:
    """A string of at most ``MAX_NAME`` characters."""
    return _field(body, key, default, lambda value: isinstance(value, str) and len(value) <= MAX_NAME, "text")


def flag(body: dict[str, Any], key: str, default: bool = False) -> bool:
    """A boolean."""
    return _field(body, key, default, lambda value: isinstance(value, bool), "true or false")


def number(body: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number."""
    return float(_field(body, key, default, is_number, "a number"))


def items(body: dict[str, Any], key: str, most: int) -> list[Any]:
    """A list of one to ``most`` values."""
    return _field(body, key, None, lambda value: isinstance(value, list) and 0 < len(value) <= most, "a list")


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _field(body: dict[str, Any], key: str, default: Any, fits: Callable[[Any], bool], kind: str) -> Any:
    value = body.get(key, default)
    if value is None or not fits(value):
        raise Refusal(400, f"'{key}' must be {kind}")
    return value


def file_name(name: str) -> str:
    """The last part of a path that a client gave, without control characters: for messages and downloads only.

    It is never used as a path.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(character for character in last if unicodedata.category(character)[0] != "C")
    return unicodedata.normalize("NFC", shown).strip()[-MAX_NAME:] or "recording"
