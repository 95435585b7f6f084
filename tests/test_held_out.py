"""What conversions of validation clips are measured by, and the alarm of a codebook that collapses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.conftest import BASE_MODEL  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv.config import BottleneckConfig, ConversionConfig, VocoderConfig  # noqa: E402
from vconv.data.corpus import Corpus, load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.on_the_fly import OnTheFly  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.models.pretrained.campplus import load_campplus  # noqa: E402
from vconv.models.vocoder import Vocoder  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.held_out import (  # noqa: E402
    Encoders,
    HeldOut,
    conversion_pairs,
    into_register,
    load_encoders,
    parallel_pairs,
    perplexities,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    text = manifest.read_text(encoding="utf-8").replace("\n", "\tseconds\n", 1)  # features are made when asked for
    head, *lines = text.splitlines()
    lines = [f"{line}\t1.99" for line in lines]
    manifest.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return manifest


@pytest.fixture(scope="module")
def corpora(manifest: Path) -> tuple[Corpus, Corpus]:
    clips = read_manifest(manifest)
    return load_corpus(OnTheFly(clips, manifest.parent / "cache"), clips)


@pytest.fixture(scope="module")
def encoders(speaker_encoder_file: Path) -> Encoders:
    torch.manual_seed(0)
    vocoder = Vocoder(VocoderConfig(channels=24, blocks=1)).eval()
    return Encoders(vocoder, load_campplus(speaker_encoder_file))


class Stub:
    """Stands for a conversion model: ``result`` is called with the source's mel and the pitch; codes as they are."""

    config = ConversionConfig(bottleneck=BottleneckConfig(groups=2, codes=16))

    def __init__(self, result: Callable[..., torch.Tensor], codes: Callable[[int], torch.Tensor]) -> None:
        self._result, self._codes = result, codes

    def __call__(self, source: torch.Tensor, pitch: torch.Tensor, *_: object) -> torch.Tensor:
        return self._result(source, pitch)

    def encode(self, mel: torch.Tensor, asr_features: object) -> SimpleNamespace:
        return SimpleNamespace(codes=self._codes(mel.shape[2] // 2))


def all_codes(frames: int) -> torch.Tensor:
    return torch.arange(2 * frames).reshape(1, 2, frames) % 16


def test_perplexity_counts_the_codes_in_use() -> None:
    codes = torch.stack([torch.arange(64) % 16, torch.arange(64) % 2, torch.zeros(64, dtype=torch.long)])
    assert perplexities(codes, 16) == pytest.approx([16, 2, 1])


def test_pairs_are_of_two_speakers_and_references_of_other_sentences(corpora: tuple[Corpus, Corpus]) -> None:
    corpus, validation = corpora
    pairs = conversion_pairs(validation.items, 3)
    assert len(pairs) == 3 and pairs == conversion_pairs(validation.items, 3)
    assert len({pair.source.entry.path for pair in pairs}) == 3
    assert all(pair.source.speaker_name != pair.target.speaker_name for pair in pairs)
    (pair,) = parallel_pairs(corpus, validation, 12)
    assert pair.source.group == pair.target.group != pair.reference.group
    assert pair.source.speaker_name != pair.target.speaker_name == pair.reference.speaker_name


def test_pitch_moves_into_the_register_of_another() -> None:
    low, high = torch.tensor([[[-1.0, 5.0, -0.5], [1, 0, 1]]]), torch.tensor([[[0.5, 0.7, 9.0], [1, 1, 0]]])
    torch.testing.assert_close(into_register(low, high)[0, 0], torch.tensor([0.35, 6.35, 0.85]))
    silent = torch.zeros(1, 2, 3)
    assert torch.equal(into_register(low, silent), low)


def test_the_mel_distance_is_that_to_the_same_sentence_in_nepers(corpora: tuple[Corpus, Corpus]) -> None:
    corpus, validation = corpora
    (pair,) = parallel_pairs(corpus, validation, 12)
    mel = torch.from_numpy(validation.store.clip_mel(pair.target.entry).T.astype(np.float32))[None]
    measure = HeldOut(corpus, validation, Encoders(), 12, CPU)
    for error in (0.0, 0.5):
        stub = Stub(lambda source, pitch, error=error: mel[:, :, : pitch.shape[2]] + error, all_codes)
        found = measure(stub, 1)
        assert found["held_out/mel_distance"] == pytest.approx(error, abs=1e-6)
        assert set(found) == set(measure.names(stub))
        assert "held_out/speaker_similarity" not in found


def test_conversions_are_measured_alike_each_time(corpora: tuple[Corpus, Corpus], encoders: Encoders) -> None:
    measure = HeldOut(*corpora, encoders, 2, CPU)
    stub = Stub(lambda source, pitch: source, all_codes)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = measure(stub, 1)
    assert torch.equal(torch.get_rng_state(), before)  # the training's numbers stay as they were
    torch.manual_seed(6)
    assert measure(stub, 2) == first
    assert -1 <= first["held_out/speaker_similarity"] <= 1
    other = measure(Stub(lambda source, pitch: source.flip(2), all_codes), 3)
    assert other["held_out/speaker_similarity"] != first["held_out/speaker_similarity"]


def test_clips_may_be_shorter_than_their_entries_say(corpora: tuple[Corpus, Corpus], encoders: Encoders) -> None:
    """The silence around them is trimmed when they are read."""
    store = corpora[1].store
    assert len(store.clip_mel(corpora[1].items[0].entry)) % 2 == 1
    items = [replace(item, entry=replace(item.entry, frames=item.entry.frames + 9)) for item in corpora[1].items]
    untrimmed = replace(corpora[1], items=items)
    stub = Stub(lambda source, pitch: source + 0 * pitch[:, :1], all_codes)
    found = [HeldOut(corpora[0], part, encoders, 2, CPU)(stub, 1) for part in (corpora[1], untrimmed)]
    assert found[0] == found[1]


@pytest.mark.skipif(not BASE_MODEL.is_dir(), reason="the included model is not there")
def test_content_is_compared_with_the_source(corpora: tuple[Corpus, Corpus], encoders: Encoders) -> None:
    with_asr = load_encoders(encoders.vocoder, "", str(BASE_MODEL / "asr_encoder.onnx"), CPU)
    measure = HeldOut(*corpora, with_asr, 1, CPU)
    same, backwards = (
        measure(Stub(result, all_codes), 1)["held_out/content_distance"]
        for result in (lambda source, pitch: source, lambda source, pitch: source.flip(2))
    )
    assert 0 <= same < backwards <= 2


def test_a_codebook_that_collapses_is_told_in_one_line(
    corpora: tuple[Corpus, Corpus], capsys: pytest.CaptureFixture[str]
) -> None:
    measure = HeldOut(*corpora, Encoders(), 0, CPU)
    assert measure(Stub(lambda *_: None, all_codes), 7) == {
        "codebook/perplexity": pytest.approx(16, rel=0.01),
        "codebook/use": pytest.approx(1, rel=0.01),
    }
    assert capsys.readouterr().out == ""

    def one_of_two_collapsed(frames: int) -> torch.Tensor:
        return torch.stack([torch.arange(frames) % 16, torch.zeros(frames, dtype=torch.long)])[None]

    found = measure(Stub(lambda *_: None, one_of_two_collapsed), 7)
    assert found["codebook/use"] == pytest.approx(1 / 16)
    printed = capsys.readouterr().out
    assert printed == "step 7: a codebook collapses: perplexity 1.0 of 16 entries, under 10 %\n"


def test_training_measures_conversions_and_keeps_the_best_by_them(manifest: Path, tmp_path: Path) -> None:
    every = ("log.validate_every=2", "optimizer.steps=4", "losses.adversary=0", "log.best=held_out/mel_distance")
    train(tmp_path, CONVERSION, manifest, *every)
    distances = scalars(tmp_path, "held_out/mel_distance")
    assert len(distances) == len(scalars(tmp_path, "codebook/perplexity")) == 2
    best = checkpoint.load(tmp_path / "run" / checkpoint.BEST)["best"]
    assert best["value"] == pytest.approx(min(distances), rel=1e-5)
    with pytest.raises(InputError, match=r"log\.best: .held_out/speaker_similarity. is not measured in this run"):
        train(tmp_path, CONVERSION, manifest, "log.best=held_out/speaker_similarity", resume=True)
