"""Strict reading of tar files from unknown sources: plain files with plain names, one header at a time.

Python's ``tarfile`` reads extended headers of any length into memory, follows links and keeps a list of all members;
here only its parser of one header of 512 bytes is used. WebDataset's own writer, GNU tar and ``tarfile`` (USTAR) make
what is read.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vconv.data.shards.format import Sample
from vconv.errors import InputError

MAX_FILE_BYTES = 64 << 20  # of one file in a tar; half an hour of speech as FLAC
MAX_FILES = 16  # of a sample
_NAME = re.compile(r"(?:\./)?([A-Za-z0-9_-]{1,80})\.([A-Za-z0-9_.-]{1,40})")
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    key: str
    suffix: str
    place: int  # of its first byte
    size: int


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard in their order, one at a time in memory.

    Raises:
        InputError: the file cannot be read, is cut off, or holds anything but plain files with plain names.
    """
    key, files = "", {}
    try:
        with path.open("rb") as file:
            for member in _members(file, path):
                if member.key != key and files:
                    yield Sample(path.name, key, files)
                    files = {}
                key = member.key
                if member.suffix in files or len(files) == MAX_FILES:
                    raise InputError(f"{path}: {key}: has a file twice, or more than {MAX_FILES} files")
                files[member.suffix] = _read(file, member, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if files:
        yield Sample(path.name, key, files)


def scan_members(path: Path) -> Iterator[Member]:
    """The headers of a shard alone. Raises InputError as ``read_samples``."""
    try:
        with path.open("rb") as file:
            for member in _members(file, path):
                yield member
                file.seek(member.place + member.size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    """Headers of files; who takes one leaves ``file`` at the end of its content."""
    place, size = 0, path.stat().st_size
    while True:
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            if len(header) < _BLOCK:
                raise InputError(f"{path}: is cut off; make the shards again")
            return
        member = _parse(header, place + _BLOCK, path)
        if member.place + member.size > size:
            raise InputError(f"{path}: {member.key}: is cut off; make the shards again")
        yield member
        place = member.place + -(-member.size // _BLOCK) * _BLOCK
        file.seek(place - member.place - member.size, 1)  # the rest of its last block


def _parse(header: bytes, place: int, path: Path) -> Member:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InputError(f"{path}: is no tar file, or a damaged one ({error})") from None
    shown = ascii(info.name)[:80]
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise InputError(
            f"{path}: {shown}: is no plain file (type {ascii(info.type)[1:]}); links, folders and extended headers are "
            "refused"
        )
    if (name := _NAME.fullmatch(info.name)) is None:
        raise InputError(f"{path}: {shown}: is no name of a sample's file, such as 000000017.flac")
    if not 0 <= info.size <= MAX_FILE_BYTES:
        raise InputError(f"{path}: {shown}: {info.size} bytes; at most {MAX_FILE_BYTES >> 20} MiB are read")
    return Member(name[1], name[2], place, info.size)


def _read(file: BinaryIO, member: Member, path: Path) -> bytes:
    content = file.read(member.size)
    if len(content) < member.size:
        raise InputError(f"{path}: {member.key}: is cut off; make the shards again")
    return content
