"""Training of the encoders for a frozen decoder: its batches, what it learns, what it leaves alone, what comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

from tests.conftest import BASE_MODEL, REPOSITORY, Cli  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_recipes import script  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv.data.aligned_waves import AlignedConfig, AlignedSampler  # noqa: E402
from vconv.data.corpus import Corpus, base_language, load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.store import build, open_store  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import HOP_LENGTH, N_MELS, log_mel  # noqa: E402
from vconv.model_folder import ASR_ENCODER  # noqa: E402
from vconv.models import saved  # noqa: E402
from vconv.models.pretrained.moonshine import load_moonshine  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.encoders import EncodersTraining, difference, in_languages, make_validation  # noqa: E402
from vconv.training.start import make_accelerator  # noqa: E402
from vconv.training.stopping import Best  # noqa: E402
from vconv.training.trained import load_asr_encoder, load_conversion  # noqa: E402

GRAPH = BASE_MODEL / ASR_ENCODER
ENCODERS = f"""
task: encoders
threads: 1
asr_encoder: {GRAPH}
corpus: {{processes: 1}}
batch:
  aligned: {{items: 2, reference_frames: 48}}
  crops: {{items: 2, seconds: 1.5, broken_off: 0.5, window: [0.5, 1.0]}}
optimizer: {{steps: 30, warmup: 3, learning_rate: 1.0e-3, ema: 0.8}}
log: {{every: 6, save_every: 15, validate_every: 30}}
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = make_corpus(tmp_path_factory.mktemp("corpus"))
    build(read_manifest(found), found.with_suffix(".store"))
    return found


@pytest.fixture(scope="module")
def corpus(manifest: Path) -> Corpus:
    return load_corpus(open_store(manifest.with_suffix(".store")), read_manifest(manifest))[0]


def numbered(corpus: Corpus) -> np.ndarray:
    """Embeddings [K, 1] that tell which clip is which."""
    return np.arange(len(corpus.items), dtype=np.float32)[:, None]


def test_a_batch_has_the_same_words_in_another_voice(corpus: Corpus) -> None:
    config = AlignedConfig(items=4, reference_frames=60, disturbed=0.0)
    one, again = (AlignedSampler(corpus, config, 0, numbered(corpus)).batch(5) for _ in range(2))
    for name, value in one._asdict().items():
        np.testing.assert_array_equal(value, getattr(again, name), name)
    frames = one.source_mel.shape[2]
    assert frames % 2 == 0 and one.source.shape == (4, frames * HOP_LENGTH) and one.pitch.shape == (4, 2, frames)
    assert one.source_mel.shape == one.wanted.shape == (4, N_MELS, frames) and frames - one.frames.max() in (0, 1)
    assert one.reference_mel.shape == (4, N_MELS, 60) and one.reference.shape == (4, 60 * HOP_LENGTH)
    np.testing.assert_allclose(one.source_mel[1], log_mel(one.source[1]))
    assert (one.counts > 0).all() and one.phones.shape == (4, one.counts.max())


def test_targets_are_of_the_same_group_and_references_of_the_targets_speaker(corpus: Corpus) -> None:
    sampler = AlignedSampler(corpus, AlignedConfig(items=3, disturbed=0.0), 0, numbered(corpus))
    whole = {k: log_mel(sampler._wave(k)) for k in range(len(corpus.items))}

    def clip_of(mel: np.ndarray) -> int:
        """Which clip a mel of a batch begins as."""
        return min(whole, key=lambda k: np.abs(whole[k][:, :20] - mel[:, :20]).mean())

    kinds = set()
    for step in range(6):
        batch = sampler.batch(step)
        for source, wanted, voice in zip(batch.source_mel, batch.wanted, batch.voice[:, 0].astype(int)):
            a, b = corpus.items[clip_of(source)], corpus.items[clip_of(wanted)]
            alone = not a.group or len(corpus.by_group[a.group]) == 1
            assert b is a if alone else b.group == a.group and b is not a
            assert corpus.items[voice].speaker == b.speaker
            kinds.add(alone)
    assert False in kinds


def test_a_rare_language_is_drawn_more_often_than_its_share(corpus: Corpus) -> None:
    languages = ["hi" if item.group == "0" else "en" for item in corpus.items]
    items = [replace(item, language=language) for item, language in zip(corpus.items, languages)]
    mixed, shares = replace(corpus, items=items), []
    for balance in (1.0, 0.0):
        config = AlignedConfig(items=8, reference_frames=16, disturbed=0.0, balance=balance)
        sampler = AlignedSampler(mixed, config, 0, numbered(mixed))
        drawn = [k for step in range(40) for k in sampler._neighbours(np.random.default_rng(step))]
        shares.append(np.mean([items[k].language == "hi" for k in drawn]))
    assert shares[0] == pytest.approx(0.2, abs=0.08) and shares[1] == pytest.approx(0.5, abs=0.08)


def test_crops_are_of_the_languages_that_are_to_stay_as_they_were(corpus: Corpus) -> None:
    items = [replace(item, language=("en", "hi")[k % 2]) for k, item in enumerate(corpus.items)]
    mixed = replace(corpus, items=items)
    assert in_languages(mixed, ("en",)).items == items[::2]
    assert in_languages(mixed, ()).items == in_languages(mixed, ("fr",)).items == items


@pytest.mark.parametrize("language", ["en", "en-US", "EN_gb", "en (Mandarin L1)"])
def test_regions_and_accents_are_one_language(language: str) -> None:
    assert base_language(language) == "en"


def test_a_corpus_without_phones_is_refused(corpus: Corpus) -> None:
    silent = Corpus(corpus.store, [replace(item, phones=()) for item in corpus.items], corpus.speakers, [], [])
    with pytest.raises(InputError, match="no clip of the manifest has phones and lasts 6 s or less"):
        AlignedSampler(silent, AlignedConfig(), 0, numbered(corpus))


def test_held_out_clips_without_phones_are_no_validation(
    corpus: Corpus, speaker_encoder_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EncodersTraining(speaker_encoder=str(speaker_encoder_file))
    start = SimpleNamespace(accelerator=make_accelerator("no"), validation=corpus)
    assert make_validation(config, start) is not None and not capsys.readouterr().out
    start.validation = replace(corpus, items=[replace(item, phones=()) for item in corpus.items])
    assert make_validation(config, start) is None
    assert "no held-out clip has phones and lasts 6 s or less; this run has no validation" in capsys.readouterr().out
    Best("validation").check(())  # such a run begins all the same
    with pytest.raises(InputError, match=r"log\.patience: this run has no validation clips"):
        Best("validation", patience=1).check(())


def test_the_difference_of_codes_is_of_the_weighted_frames() -> None:
    torch.manual_seed(0)
    wanted, weights = torch.randn(2, 8, 5), torch.tensor([0, 0, 0, 0.5, 0.5])
    found = wanted.clone()
    found[:, :, :3] += 10
    assert difference(found, wanted, weights) == 0
    assert difference(3 * found, 3 * wanted, torch.full((5,), 0.2)) == pytest.approx(
        difference(found, wanted, torch.full((5,), 0.2)).item(), rel=1e-3
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("conversion=''", "set conversion"),
        ("speaker_encoder=''", "set speaker_encoder"),
        ("asr_encoder=''", "set asr_encoder"),
        ("batch.aligned.reference_frames=31", "use an even number"),
    ],
)
def test_what_is_missing_is_told_at_once(tmp_path: Path, setting: str, message: str) -> None:
    places = (f"{name}={tmp_path}" for name in ("conversion", "speaker_encoder"))
    with pytest.raises(InputError, match=message):
        train(tmp_path, ENCODERS, tmp_path / "none.tsv", *places, setting)


@pytest.mark.slow
def test_encoders_learn_and_the_decoder_stays(
    manifest: Path, tmp_path: Path, speaker_encoder_file: Path, vconv_cli: Cli, clips: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    speaker = f"speaker_encoder={speaker_encoder_file}"
    own = ("model.speaker=pretrained", speaker, f"corpus.asr_encoder={GRAPH}", "corpus.store=" + str(begun / "store"))
    train(begun, CONVERSION, manifest, "optimizer.steps=20", *own)
    train(tmp_path, ENCODERS, manifest, f"conversion={begun / 'run'}", speaker)
    place = tmp_path / "run"
    phones = scalars(tmp_path, "phones")
    assert phones[-1] < 0.8 * phones[0]
    for name in ("reconstruction", "code", "validation/code_in_use", "gradient/asr_encoder"):
        assert np.isfinite(scalars(tmp_path, name)).all()
    first, after = load_conversion(begun / "run"), load_conversion(place)
    changed = {name for name, value in after.state_dict().items() if not value.equal(first.state_dict()[name])}
    assert changed and all(name.startswith("content.") for name in changed)
    weights, before = load_asr_encoder(place), load_moonshine(GRAPH).state_dict()
    assert weights.keys() == before.keys() and any(not weights[name].equal(before[name]) for name in weights)

    between, graph = tmp_path / "between.safetensors", tmp_path / "between.onnx"
    arguments = [str(begun / "run"), str(place / "checkpoint.safetensors"), "--share", "0.5", "-o", str(between)]
    assert script(REPOSITORY / "recipes" / "average.py").main(arguments) == 0
    name = "content.output.weight"
    middle = (first.state_dict()[name] + after.state_dict()[name]) / 2
    torch.testing.assert_close(load_conversion(between).state_dict()[name], middle)
    later = tmp_path / "later.safetensors"  # with the same encoders and another decoder, which is kept
    state = checkpoint.load(begun / "run" / "checkpoint.safetensors")
    decoder = next(key for key in state["ema"] if key.startswith("decoder.") and key.endswith("weight"))
    state["ema"][decoder] = state["ema"][decoder] + 1
    checkpoint.save(later, state)
    combined = [str(later), *arguments[1:-1], str(tmp_path / "combined.safetensors")]
    assert script(REPOSITORY / "recipes" / "average.py").main(combined) == 0
    found = load_conversion(tmp_path / "combined.safetensors").state_dict()
    torch.testing.assert_close(found[decoder], state["ema"][decoder])
    torch.testing.assert_close(found[name], middle)
    arguments = [str(GRAPH), "--trained", str(between), "-o", str(graph)]
    assert script(REPOSITORY / "recipes" / "base" / "asr_encoder.py").main(arguments) == 0
    refused = vconv_cli("export", between, BASE_MODEL, "-o", tmp_path / "model")
    assert refused.code != 0 and "no ASR encoder is known for it" in refused.err
    done = vconv_cli("export", between, BASE_MODEL, "-o", tmp_path / "model", "--asr-encoder", graph)
    assert done.code == 0, done.err
    assert saved.load(tmp_path / "model")[0].config.asr_channels == 288
    convert = ("convert", clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / "x.wav")
    assert vconv_cli(*convert, "--model", tmp_path / "model").code == 0
