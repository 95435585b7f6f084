"""Which files are made from which, found while others are worked on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vconv import audio
from vconv.batch.jobs import Job
from vconv.errors import InputError, VconvError
from vconv.files import check_no_input, exists_already
from vconv.opening import STANDARD_STREAM, is_folder

LONGEST_NAME = 255  # bytes, on nearly all file systems


@dataclass(frozen=True)
class Plan:
    """What is made from what. Iterating finds the jobs, and what is wrong with sources that cannot be tried.

    Args:
        sources: files and folders; a folder stands for the audio in it, at any depth, without what the plan
            itself writes there.
        output: a file (one source file only), or a folder, in which the folders of the sources are kept.
            None writes beside each source.
        rename: the stem of a source to that of its output.
        suffix: of the outputs, where ``output`` does not name the file.
        overwrite: replace outputs that exist.
        skip_existing: take outputs that exist for finished. Outputs appear whole, so an interrupted batch goes
            on in this way; what they were made with is not looked at.
        protected: files that are no output, whatever ``overwrite`` says.
        reads: suffixes of the files that a folder stands for.

    Raises:
        InputError: ``output`` is a file, but there are several sources; or it is both to be replaced and skipped.
    """

    sources: Sequence[Path]
    output: Path | None
    rename: Callable[[str], str]
    suffix: str
    overwrite: bool = False
    skip_existing: bool = False
    protected: Sequence[Path] = ()
    reads: frozenset[str] = audio.READ_SUFFIXES
    _single: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.overwrite and self.skip_existing:
            raise InputError("--overwrite replaces what is there and --skip-existing keeps it; choose one")
        single = self.output is not None and _is_file_name(self.output, self.sources, self.suffix)
        object.__setattr__(self, "_single", single)

    def __iter__(self) -> Iterator[Job | VconvError]:
        files = [source for source in self.sources if not is_folder(source)]
        named: dict[Path, Path] = {}
        for file in files:
            yield self._job(file, self._place(file, Path()), named)
        folders = [source for source in self.sources if is_folder(source)]
        for number, root in enumerate(folders):
            found = False
            unreadable: list[InputError] = []
            for folder, names in audio.walk_audio(root, self.reads, unreadable.append):
                if self._is_output(folder, root):
                    continue
                found = True
                inside = folder.relative_to(root)
                makers = named | self._makers(folders[:number], inside)
                places = {folder / name: self._place(folder / name, inside) for name in names}
                goes = next(iter(places.values())).parent  # as all of them do
                same = os.path.realpath(goes) == os.path.realpath(folder)
                own = {place.name for place in places.values()} if same else set()
                for file, place in places.items():
                    if file.name not in own:
                        yield self._job(file, place, makers)
            yield from unreadable
            if not found and not unreadable:
                yield self._nothing_in(root)

    def count(self) -> int:
        """How many files iterating gives; it goes through all folders to see."""
        return sum(1 for _ in self)

    def _place(self, file: Path, inside: Path) -> Path:
        """The output of a file that lies ``inside`` a source folder."""
        if self._single and self.output:
            return self.output
        folder = file.parent if self.output is None else self.output / inside
        return folder / f"{self.rename(file.stem)}{self.suffix}"

    def _nothing_in(self, root: Path) -> InputError:
        if self.reads == audio.READ_SUFFIXES:
            return audio.no_audio_in(root)
        return InputError(f"{root}: no {' or '.join(sorted(self.reads))} files in this folder; check the path")

    def _is_output(self, folder: Path, root: Path) -> bool:
        """Whether ``folder`` is the output folder, or in it, where that lies in the source that is walked."""
        if self.output is None:
            return False
        output, top = Path(os.path.realpath(self.output)), Path(os.path.realpath(root))
        inside = output != top and output.is_relative_to(top)
        return inside and Path(os.path.realpath(folder)).is_relative_to(output)

    def _makers(self, earlier: Sequence[Path], inside: Path) -> dict[Path, Path]:
        """What sources walked earlier write into the same folder, and which file each is made from."""
        makers: dict[Path, Path] = {}
        if self.output is not None:
            for folder in (root / inside for root in earlier):
                with contextlib.suppress(OSError):  # there is none, or it cannot be read: then nothing was made of it
                    files = (file for file in folder.iterdir() if audio.is_audio_name(file.name, self.reads))
                    makers |= {self._place(file, inside): file for file in files}
        return makers

    def _job(self, source: Path, output: Path, makers: dict[Path, Path]) -> Job | VconvError:
        """The job, or why it cannot be tried; ``makers`` learns of it."""
        try:
            return self._checked_job(source, output, makers)
        except OSError as error:
            return InputError(f"{source}: cannot be looked at ({error.strerror}); check its folder")
        except ValueError as error:  # a NUL in the name
            return InputError(f"{str(source)!r}: is no name of a file ({error}); check the path")

    def _checked_job(self, source: Path, output: Path, makers: dict[Path, Path]) -> Job | VconvError:
        """The same; what the file system refuses of the source is raised."""
        if source == STANDARD_STREAM and self.output is None:
            return InputError("standard input: has no folder for its result; name an output with -o")
        if source != STANDARD_STREAM and not source.exists():
            return InputError(f"{source}: no such file; check the path")
        if output in makers:
            return InputError(f"{source}: would be written to {output}, as {makers[output]} is; rename one of them")
        makers[output] = source
        if len(os.fsencode(output.name)) > LONGEST_NAME:
            return InputError(f"{source}: the name of its output, {output.name}, is too long; give one with -o")
        try:
            if output == STANDARD_STREAM or not output.exists():
                return Job(source, output)
        except OSError as error:
            return InputError(f"{output}: cannot be looked at ({error.strerror}); choose another place with -o")
        try:
            check_no_input(output, (source, *self.protected))
        except InputError as error:
            return error
        if not self.overwrite and not self.skip_existing:
            return exists_already(output)
        return Job(source, output, finished=self.skip_existing)


def _is_file_name(output: Path, sources: Sequence[Path], suffix: str) -> bool:
    if output == STANDARD_STREAM:
        return True
    if is_folder(output) or not output.suffix:
        return False
    if len(sources) == 1 and not is_folder(sources[0]):
        return True
    if output.is_file() or output.suffix.lower() in (suffix, *audio.WRITE_FORMATS):
        raise InputError(f"{output}: is one file, but there are several sources; name a folder with -o")
    return False
