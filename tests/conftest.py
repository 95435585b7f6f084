"""Synthetic speech, a small engine without networks, and model folders for the tests."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import make_speaker_encoder
from vconv import audio, cli, features
from vconv.config import BottleneckConfig, ConversionConfig, VocoderConfig
from vconv.features import OUTPUT_HOP
from vconv.inference import Converter
from vconv.inference.engine import Decoded, Encoded
from vconv.inference.utterance import Utterance
from vconv.model_folder import POPULATION
from vconv.voice import Reference, Voice

REPOSITORY = Path(__file__).resolve().parent.parent
BASE_MODEL = REPOSITORY / "pretrained" / "base"


def speech(seconds: float, rate: int = 16000, f0: float = 120.0, seed: int = 0) -> np.ndarray:
    """Something a pitch tracker takes for speech: harmonics under moving formants, in syllables, with breath noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    melody = f0 * (1 + 0.02 * np.sin(2 * np.pi * 0.7 * time + seed))
    phase = 2 * np.pi * np.cumsum(melody) / rate
    formants = (500 + 200 * np.sin(2 * np.pi * 1.3 * time), 1500 + 400 * np.sin(2 * np.pi * 0.9 * time + 1))
    wave = np.zeros(len(time))
    for harmonic in range(1, int(min(4000, 0.45 * rate) / f0)):
        amplitude = sum(np.exp(-(((harmonic * melody - formant) / 200) ** 2)) for formant in formants) + 0.05
        wave += amplitude * np.cos(harmonic * phase) / harmonic**0.5
    syllables = np.clip(0.5 + 0.8 * np.sin(2 * np.pi * 3 * time), 0.02, 1)
    wave = wave * syllables + 0.005 * rng.standard_normal(len(time))
    return (0.1 * wave / np.abs(wave).max(initial=1e-9) * 3).astype(np.float32)


class ToyEngine:
    """Stands for the networks: its content depends on the whole chunk, its vocoder on a few frames around."""

    config = ConversionConfig(
        content_channels=features.N_MELS, embedding_channels=4, bottleneck=BottleneckConfig(codes=40)
    )

    def __init__(self) -> None:
        self.pitch: list[np.ndarray] = []  # what decode() was given
        self.references: list[Reference | None] = []

    def asr_features(self, utterance: Utterance) -> None:
        return None

    def content(self, utterance: Utterance, statistics: np.ndarray | None = None) -> Encoded:
        pairs = utterance.mel.reshape(len(utterance.mel), -1, 2).mean(axis=2)
        content = pairs - pairs.mean(axis=1, keepdims=True)
        return Encoded(content, np.stack([content[:40].argmax(axis=0), content[40:].argmax(axis=0)]), None)

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        return np.concatenate([np.eye(40, dtype=np.float32)[row].T for row in codes])

    def speaker(self, utterance: Utterance) -> np.ndarray:
        bands = utterance.mel.mean(axis=1).reshape(4, -1).mean(axis=1)
        return (bands / np.linalg.norm(bands)).astype(np.float32)

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, voice: Voice, statistics: np.ndarray | None = None
    ) -> Decoded:
        self.pitch.append(pitch)
        self.references.append(voice.reference)
        return Decoded(np.repeat(content, 2, axis=1) - 4 + np.repeat(voice.embedding, 20)[:, None], None)

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        level = np.convolve(np.exp(mel.mean(axis=0)), np.ones(9) / 9, mode="same")
        voiced = np.repeat(pitch[1], OUTPUT_HOP)
        return (np.repeat(level, OUTPUT_HOP) * (voiced * source + 0.2 * noise)).astype(np.float32)


@pytest.fixture
def toy_engine() -> ToyEngine:
    return ToyEngine()


@pytest.fixture
def toy(toy_engine: ToyEngine) -> Converter:
    """A converter on the toy engine; reading, F0, chunking and writing are the real ones."""
    return Converter(toy_engine, toy_engine.config)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, exported from miniature networks."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from vconv.export import write_model
    from vconv.models.conversion import ConversionModel
    from vconv.models.vocoder import Vocoder

    torch.manual_seed(0)
    conversion = ConversionConfig(
        channels=32,
        expansion=2,
        content_blocks=(1, 1),
        content_channels=32,
        speaker_blocks=1,
        embedding_channels=24,
        decoder_channels=32,
        decoder_blocks=(1, 1),
        attention_channels=16,
        attention_heads=2,
        bottleneck=BottleneckConfig(groups=4, codes=16),
    )
    model = ConversionModel(conversion)
    with torch.no_grad():
        model.bottleneck.codebooks.normal_()  # k-means would set them from the first training batch
    folder = tmp_path_factory.mktemp("model") / "small"
    write_model(folder, model, Vocoder(dataclasses.replace(VocoderConfig(), channels=32, expansion=2, blocks=2)))
    return folder


@pytest.fixture(scope="session")
def speaker_encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return make_speaker_encoder(tmp_path_factory.mktemp("speaker_encoder") / "speaker_encoder.safetensors")


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights; in a checkout without them, the miniature model.

    Without the population of voices: with it, conversions of what is hardly speech would come with a warning.
    """
    if not BASE_MODEL.is_dir():
        return request.getfixturevalue("small_model")
    folder = tmp_path_factory.mktemp("base") / "pretrained"
    shutil.copytree(BASE_MODEL, folder, ignore=shutil.ignore_patterns(POPULATION))
    return folder


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with src.wav (1.2 s), low.wav and high.wav, voices an octave apart."""
    folder = tmp_path / "clips"
    folder.mkdir()
    audio.write(folder / "src.wav", speech(1.2, 22050, f0=150), 22050)
    audio.write(folder / "low.wav", speech(1.5, f0=110, seed=1), features.SAMPLE_RATE)
    audio.write(folder / "high.wav", speech(1.0, f0=220, seed=2), features.SAMPLE_RATE)
    return folder


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line on stderr."""
        assert self.err.endswith("\n") and self.err.count("\n") == 1, f"expected one line on stderr:\n{self.err}"
        assert self.err.startswith("vconv: ") and "Traceback" not in self.err
        return self.err.strip()


Cli = Callable[..., Outcome]


@pytest.fixture
def vconv_cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process: arguments -> exit code, stdout, stderr (also what native code prints)."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return run
