"""Recordings without an upper band in the vocoder's training: they are judged where they say something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_corpus  # noqa: E402
from vconv.data.corpus import Corpus, load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.on_the_fly import OnTheFly  # noqa: E402
from vconv.data.wave_batches import WaveBatchConfig, WaveSampler, full_band_items, narrow_items  # noqa: E402
from vconv.features import OUTPUT_RATE  # noqa: E402
from vconv.training.journal import Monitor  # noqa: E402
from vconv.training.vocoder import VocoderTraining, validate, with_upper_band  # noqa: E402


def tone(frequency: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency * torch.arange(9600) / OUTPUT_RATE)[None]


def test_above_its_band_a_recording_is_what_another_vocoder_made() -> None:
    real = torch.cat([tone(1000) + tone(10000), tone(1000)])
    above = torch.cat([tone(2000) + 0.5 * tone(9000)] * 2).requires_grad_()
    mixed = with_upper_band(real, above, torch.tensor([False, True]))
    torch.testing.assert_close(mixed[0], real[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[1], (tone(1000) + 0.5 * tone(9000))[0], rtol=0, atol=1e-3)
    assert not mixed.requires_grad  # it is no way around the loss
    assert with_upper_band(real, above, torch.tensor([False, False])) is real


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Every other clip said to be recorded at 16 kHz."""
    named = read_manifest(make_corpus(tmp_path_factory.mktemp("corpus"), sentences=3))
    clips = [replace(clip, seconds=soundfile.info(clip.path).duration) for clip in named]
    whole = load_corpus(OnTheFly(clips, None), clips)[0]
    items = [replace(item, sample_rate=16000 if i % 2 else 24000) for i, item in enumerate(whole.items)]
    return replace(whole, items=items)


def test_a_share_of_the_crops_is_narrow(corpus: Corpus) -> None:
    config = WaveBatchConfig(items=8, narrow_share=0.25)
    assert narrow_items(corpus, config) == list(range(1, len(corpus.items), 2))
    assert full_band_items(corpus, config) == list(range(0, len(corpus.items), 2))
    batch = WaveSampler(corpus, config, seed=0).batch(0)
    assert batch.narrow.tolist() == [False] * 6 + [True] * 2
    assert batch.wave.shape[0] == 8
    without = replace(config, narrow_share=0.0)
    assert narrow_items(corpus, without) == []
    assert not WaveSampler(corpus, without, seed=0).batch(0).narrow.any()


class Noise(torch.nn.Module):
    """Stands for a vocoder: the noise that it gets, above 8 kHz so much louder."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        noise = inputs[-1]
        spectrum = torch.fft.rfft(noise)
        upper = torch.linspace(0, OUTPUT_RATE / 2, spectrum.shape[1]) > 8000
        return torch.fft.irfft(torch.where(upper, self.gain * spectrum, spectrum), noise.shape[1])


def test_validation_judges_narrow_recordings_in_their_band(corpus: Corpus, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, 1, 0, enabled=False)

    def distances(narrow_share: float) -> list[float]:
        config = VocoderTraining(batch=WaveBatchConfig(narrow_share=narrow_share))
        return [validate(Noise(gain), corpus, config, monitor, 0)["validation"] for gain in (1.0, 4.0)]

    quiet, loud = distances(1.0)
    assert loud == pytest.approx(quiet, rel=0.02)
    quiet, loud = distances(0.0)
    assert loud > 1.1 * quiet
