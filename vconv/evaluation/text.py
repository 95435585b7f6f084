"""Word and character errors of an ASR transcript, by language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from vconv.errors import InputError
from vconv.evaluation.scripts import HINDUSTANI, in_one_script

# fmt: off
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
# One spelling for each word, so that an ASR encoder's house style does not count as errors.
SPELLINGS = dict(
    line.split()
    for line in """
    mr mister
    mrs missus
    dr doctor
    st saint
    ok okay
    grey gray
    colour color
    colours colors
    favour favor
    favourite favorite
    honour honor
    labour labor
    neighbour neighbor
    theatre theater
    centre center
    defence defense
    programme program
    realise realize
    organisation organization
    """.strip().splitlines()
)


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


def text_errors(reference: str, heard: str, language: str = "en") -> TextErrors:
    """Errors in ``heard``, both texts normalized."""
    expected, found = normalize(reference, language), normalize(heard, language)
    letters, found_letters = " ".join(expected), " ".join(found)
    has_words = language not in WITHOUT_WORDS
    return TextErrors(
        words=min(edit_distance(expected, found), len(expected)) if has_words else 0,
        reference_words=len(expected) if has_words else 0,
        characters=min(edit_distance(letters, found_letters), len(letters)),
        reference_characters=len(letters),
    )


def normalize(text: str, language: str = "en") -> list[str]:
    """Words in lower case without punctuation; in English numbers written out and one spelling for each word.

    Text of another language is brought to one script (``in_one_script``). Where no spaces are written
    (``UNSPACED``), all of it is one word.

    Raises:
        InputError: the text is Chinese and OpenCC is not installed.
    """
    text = text.lower().replace("’", "'")
    if language != "en":
        text = in_one_script(text, language)
        words = "".join(c if _is_of_a_word(c) else " " for c in text.replace("'", "")).split()
        return words if language not in UNSPACED or not words else ["".join(words)]
    text = text.replace("&", " and ").replace("%", " percent ")
    text = re.sub(r"(?<=\d),(?=\d\d\d)", "", text)
    text = re.sub(r"\d+", lambda digits: f" {number_in_words(int(digits[0]))} ", text)
    words = re.sub(r"[^a-z ]", " ", text.replace("'", "")).split()
    return [SPELLINGS.get(word, word) for word in words]


def number_in_words(number: int) -> str:
    """English, without "and"; a million and more stays in digits."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return _joined(TENS[number // 10 - 2], number % 10)
    if number < 1000:
        return _joined(f"{UNITS[number // 100]} hundred", number % 100)
    if number < 1_000_000:
        return _joined(f"{number_in_words(number // 1000)} thousand", number % 1000)
    return str(number)


def _joined(words: str, rest: int) -> str:
    return f"{words} {number_in_words(rest)}" if rest else words


def _is_of_a_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"  # letters, marks that combine with them, numbers


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein distance of two sequences."""
    row = list(range(len(second) + 1))
    for count, item in enumerate(first, 1):
        diagonal, row[0] = row[0], count
        for place, other in enumerate(second, 1):
            best = min(row[place] + 1, row[place - 1] + 1, diagonal + (item != other))
            diagonal, row[place] = row[place], best
    return row[-1]
