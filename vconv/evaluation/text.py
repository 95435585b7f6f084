"""Word and character errors of an ASR transcript, by language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from vconv.errors import InputError
from vconv.evaluation.scripts import HINDUSTANI, in_one_script

# Written without spaces between words.
UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my", "bo"})
WITHOUT_WORDS = UNSPACED | HINDUSTANI  # of the latter only consonants are compared


@dataclass(frozen=True)
class TextErrors:
    """Insertions, deletions and substitutions, at most as many as the reference is long.

    The cap keeps one transcript that repeats itself without end from outweighing all other clips.
    ``words`` and ``reference_words`` are 0 in languages in which words are not counted (``WITHOUT_WORDS``).
    """

    words: int
    reference_words: int
    characters: int
    reference_characters: int


def language_code(tag: str) -> str:
    """Primary subtag of a language tag in lower case: "pt-BR" -> "pt", "en (Mandarin L1)" -> "en".

    Raises:
        InputError: it is no language tag.
    """
    code = re.match("[a-z]{2,3}(?![a-z])", tag.strip().lower())
    if code is None:
        raise InputError(f"language '{tag}': is no language code; give one such as fr, hi or zh")
    return code[0]


def text_errors(reference: str, recognized: str, language: str = "en") -> TextErrors:
    """Errors in ``recognized``, both texts normalized."""
    import jiwer

    expected, found = normalize(reference, language), normalize(recognized, language)
    letters, found_letters = " ".join(expected), " ".join(found)
    has_words = language not in WITHOUT_WORDS
    words = jiwer.process_words(letters, found_letters) if has_words and expected else None
    characters = jiwer.process_characters(letters, found_letters) if letters else None
    return TextErrors(
        words=min(_count(words), len(expected)),
        reference_words=len(expected) if has_words else 0,
        characters=min(_count(characters), len(letters)),
        reference_characters=len(letters),
    )


def _count(found: Any) -> int:
    """Errors of what jiwer found, or none of no reference."""
    return found.substitutions + found.insertions + found.deletions if found else 0


def normalize(text: str, language: str = "en") -> list[str]:
    """Words in lower case without punctuation; English by Whisper's normalizer (numbers, contractions, spelling).

    Text of another language is brought to one script (``in_one_script``). Where no spaces are written
    (``UNSPACED``), all of it is one word.

    Raises:
        InputError: the text is Chinese and OpenCC is not installed.
    """
    if language == "en":
        return _english()(text.replace("’", "'")).split()
    text = in_one_script(text.lower().replace("’", "'"), language)
    words = "".join(c if _is_of_a_word(c) else " " for c in text.replace("'", "")).split()
    return words if language not in UNSPACED or not words else ["".join(words)]


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def _is_of_a_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"  # letters, marks that combine with them, numbers
