"""Phones of transcripts, by the espeak-ng program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from vconv.data.manifest.table import Clip
from vconv.errors import InputError, VconvError

CLIPS_A_RUN = 10_000  # of the program, which takes a moment to start

# Where espeak-ng's name of a voice is not the language code itself.
ESPEAK_VOICES = {"en": "en-us", "fr": "fr-fr", "no": "nb", "pt": "pt-br", "zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn"}
_DIVIDER = "xyzzy"  # no language has this word, so what espeak-ng makes of it divides one line's output from the next
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak-ng marks words that it reads in another language


def fill(clips: Iterable[Clip]) -> Iterator[Clip]:
    """The clips, with phones where there is a transcript and were none.

    Raises:
        InputError: as ``phonemize``, or the language of such a clip is not known.
    """
    clips = iter(clips)
    while some := list(islice(clips, CLIPS_A_RUN)):
        yield from _fill_some(some)


def _fill_some(clips: list[Clip]) -> list[Clip]:
    missing: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.transcript and not clip.phones:
            if not clip.language:
                raise InputError(f"{clip.path}: its language is not known, so it has no phones; pass --language")
            missing.setdefault(clip.language.split()[0], []).append(index)
    for language, indices in missing.items():
        for index, phones in zip(indices, phonemize([clips[i].transcript for i in indices], language)):
            clips[index] = replace(clips[index], phones=phones)
    return clips


def phonemize(texts: Sequence[str], language: str) -> list[str]:
    """IPA of each text, without punctuation, by one run of the espeak-ng program.

    Args:
        language: a code such as en, en-gb, de or zh; what follows its first word is ignored.

    Raises:
        InputError: espeak-ng is not installed or does not support the language.
        VconvError: espeak-ng failed.
    """
    code = language.lower().replace("_", "-").split()[0]
    command = [espeak_program(), "-q", "--ipa", "-b", "1", "-v", ESPEAK_VOICES.get(code, code)]
    lines = [_DIVIDER]
    for text in texts:
        lines += [_readable(text), _DIVIDER]
    run = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", check=False)
    if "voice does not exist" in run.stderr:
        raise InputError(
            f"language '{language}': espeak-ng does not support it; 'espeak-ng --voices' lists those it does"
        )
    if run.returncode:
        raise VconvError(f"espeak-ng failed: {' '.join(run.stderr.split())}")
    return _divide(run.stdout.splitlines(), len(texts))


def espeak_program() -> str:
    """Where the program is.

    Raises:
        InputError: it is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError(
            "phones need the program espeak-ng; install it (apt install espeak-ng, brew install espeak-ng)"
        )
    return program


def _readable(text: str) -> str:
    """One line, in which words in capitals are words and not abbreviations to spell."""
    line = " ".join(text.split())
    return line.lower() if line.isupper() else line


def _divide(lines: Sequence[str], count: int) -> list[str]:
    """The output for each of ``count`` texts, which espeak-ng writes as one line a clause."""
    divider = lines[0] if lines else ""
    texts: list[list[str]] = []
    for line in lines:
        if line == divider:
            texts.append([])
        else:
            texts[-1].append(_LANGUAGE_SWITCH.sub("", line).strip())
    if len(texts) != count + 1:
        raise VconvError(f"espeak-ng answered {len(texts) - 1} texts of {count}; run it by hand on the transcripts")
    return [" ".join(" ".join(parts).split()) for parts in texts[:-1]]
