"""One script for each language, so that a difference of spelling that is none of sound counts as no error."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

from vconv.errors import InputError

CHINESE = frozenset({"zh", "yue"})
HINDUSTANI = frozenset({"hi", "ur"})
# Katakana and the hiragana of the same sound, which lie 96 code points apart.
KANA = {code: code - 0x60 for code in range(ord("ァ"), ord("ヶ") + 1)}
# Whisper's smaller models write Hindi in Devanagari, in the Arabic script of Urdu, which leaves out short vowels, or in
# Latin letters. The consonants are what all have: by sound, aspirated or not, without the letters that are also vowels.
CONSONANTS = {
    letter: sound
    for sound, letters in {
        "k": "कखکكقخkqc",
        "g": "गघگغg",
        "c": "चछچ",
        "j": "जझجزذضظژjz",
        "t": "टठतथتطٹةt",
        "d": "डढदधدڈd",
        "n": "ङञणनंँنںn",
        "p": "पफپفpf",
        "b": "बभبb",
        "m": "मمm",
        "r": "रرڑr",
        "l": "लळلl",
        "s": "सسصثs",
        "x": "शषش",
        "h": "हہهحۃh",
    }.items()
    for letter in letters
}
_FLAPS = (("ड\u093c", "र"), ("ढ\u093c", "र"))  # letters with a nukta, as NFKC leaves them
_LATIN = (("chh", "च"), ("ch", "च"), ("sh", "श"), *((f"{letter}h", letter) for letter in "kgjtdpb"))  # of one sound


def in_one_script(text: str, language: str) -> str:
    """Text in Unicode's NFKC form: Chinese in simplified characters, Japanese kana as hiragana, Hindi as consonants.

    Raises:
        InputError: the text is Chinese and OpenCC is not installed.
    """
    text = unicodedata.normalize("NFKC", text)
    if language in CHINESE:
        return _to_simplified()(text)
    if language == "ja":
        return text.translate(KANA)
    return _consonants(text) if language in HINDUSTANI else text


def _consonants(text: str) -> str:
    text = text.lower()
    for letters, sound in (*_FLAPS, *_LATIN):
        text = text.replace(letters, sound)
    return "".join(" " if c.isspace() else CONSONANTS.get(c, "") for c in text)


@cache
def _to_simplified() -> Callable[[str], str]:
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise InputError("Chinese is compared in simplified characters: no opencc; pip install opencc") from error
    return OpenCC("t2s").convert
