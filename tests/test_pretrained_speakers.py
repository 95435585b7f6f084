"""A model that hears its speakers with a speaker encoder: from batches over training to use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from vconv.errors import InputError
from vconv.features import N_MELS, SAMPLE_RATE
from vconv.frontends.fbank import fbank
from vconv.frontends.speaker_encoder import WINDOW_SAMPLES, FolderSpeakerEncoder, windows
from vconv.inference.utterance import Utterance

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

import vconv  # noqa: E402
from tests.conftest import Cli, speech  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_campplus import SMALL  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.data.batches import BatchConfig, ConversionSampler  # noqa: E402
from vconv.data.corpus import load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.store import open_store  # noqa: E402
from vconv.export import export  # noqa: E402
from vconv.inference.targets import speech_of  # noqa: E402
from vconv.models.pretrained import campplus as campplus  # noqa: E402
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus, save_campplus  # noqa: E402
from vconv.training import finetune as tuning  # noqa: E402
from vconv.training.perceptual import clip_embeddings, speaker_similarity  # noqa: E402
from vconv.training.projection import fit_projection  # noqa: E402
from vconv.training.texture import Foreign, texture_distance  # noqa: E402
from vconv.training.trained import load_conversion  # noqa: E402
from vconv.voice import Voice  # noqa: E402

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

HEARD = "model.speaker=pretrained"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, speaker_encoder_file: Path) -> tuple[Path, Path]:
    """A corpus with its feature store, and the checkpoint of a model whose speakers the speaker encoder hears."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    settings = HEARD, f"speaker_encoder={speaker_encoder_file}", "batch.other_voice=0.5", "optimizer.steps=6"
    train(manifest.parent, CONVERSION, manifest, *settings)
    return manifest, manifest.parent / "run" / "checkpoint.safetensors"


# ---------------------------------------------------------------- on a wave


def test_the_energies_are_those_of_training() -> None:
    wave = speech(2.0)
    np.testing.assert_allclose(
        fbank(wave), campplus.fbank(torch.from_numpy(wave)[None])[0], atol=2e-3
    )  # float64 and float32


@pytest.mark.parametrize("samples", [400, WINDOW_SAMPLES - 1, WINDOW_SAMPLES, WINDOW_SAMPLES + 1, 150_000])
def test_windows_cover_all_of_a_wave(samples: int) -> None:
    heard = windows(np.arange(samples))
    assert all(len(window) == WINDOW_SAMPLES for window in heard)
    assert set(np.concatenate(heard)) == set(range(samples))
    assert len(heard) == max(1, -(-samples // WINDOW_SAMPLES))


# ---------------------------------------------------------------- in training


@pytest.fixture
def training(trained: tuple[Path, Path]):
    return load_corpus(open_store(trained[0].with_suffix(".store"), ""), read_manifest(trained[0]))[0]


def test_batches_say_what_is_heard_of_the_reference(training, speaker_encoder_file: Path) -> None:
    config = BatchConfig(items=12, frames=32, reference_frames=(32, 48), other_voice=0.5, other_octaves=0.2)
    voices = {octaves: clip_embeddings(training, str(speaker_encoder_file), octaves) for octaves in (0.0, 0.2, -0.2)}
    sampler = ConversionSampler(training, config, 0, voices)
    batch = sampler.batch(0)
    assert batch.speaker_embedding.shape == (12, SMALL.embedding_channels)
    np.testing.assert_allclose(np.linalg.norm(batch.speaker_embedding, axis=1), 1, atol=1e-3)
    moved = batch.speaker < 0
    assert moved.any() and not moved.all()

    def within(voice: np.ndarray, speaker: int, octaves: float) -> bool:
        """Whether it lies in the span of what is heard of the speaker's clips."""
        rows = voices[octaves][training.by_speaker[speaker]]
        share = np.linalg.lstsq(rows.T, voice, rcond=None)[0]
        return bool(np.linalg.norm(rows.T @ share - voice) < 1e-3)

    assert all(within(batch.speaker_embedding[k], int(batch.speaker[k]), 0.0) for k in np.flatnonzero(~moved))
    assert ConversionSampler(training, config, 0).batch(0).speaker_embedding is None


def test_a_clip_made_higher_is_heard_as_another(training, speaker_encoder_file: Path) -> None:
    plain, higher = (clip_embeddings(training, str(speaker_encoder_file), octaves) for octaves in (0.0, 0.2))
    assert plain.shape == higher.shape == (len(training.items), SMALL.embedding_channels)
    assert np.abs(plain - higher).max() > 1e-3
    assert len(list(training.store.folder.glob("voices-*.npy"))) >= 2


def test_nobody_is_to_sound_like_what_was_heard_of_him() -> None:
    voices, heard = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    speaker = torch.tensor([0, -1])
    assert speaker_similarity(heard, voices, speaker, torch.tensor([[0.0, 0, 1], [0, 1, 0]])) == 0
    assert speaker_similarity(heard, voices, speaker, torch.tensor([[0.0, 0, 1], [0, 0, 1]])) == 0.5
    assert speaker_similarity(heard, voices, speaker) == 0


def test_a_model_goes_on_from_one_with_an_encoder(training, speaker_encoder_file: Path, tmp_path: Path) -> None:
    manifest = training.store.folder.with_suffix(".tsv")
    train(tmp_path, CONVERSION, manifest, "optimizer.steps=2")
    before = tmp_path / "run" / "checkpoint.safetensors"
    encoder = load_conversion(before).speaker
    settings = HEARD, f"speaker_encoder={speaker_encoder_file}", f"start_from={before}", "optimizer.learning_rate=0"
    train(tmp_path, CONVERSION, manifest, *settings, f"output={tmp_path / 'after'}", "optimizer.steps=1")
    after = load_conversion(tmp_path / "after" / "checkpoint.safetensors").speaker
    voices = clip_embeddings(training, str(speaker_encoder_file))
    mels = [training.store.clip_mel(item.entry)[:32].astype(np.float32).T for item in training.items]
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(np.stack(mels)))
        near = (after(torch.from_numpy(voices)) * wanted).sum(dim=1).mean()
        fresh = dataclasses.replace(load_conversion(before).config, speaker_embedding_channels=SMALL.embedding_channels)
        projection = type(after)(fresh)
        far = (projection(torch.from_numpy(voices)) * wanted).sum(dim=1).mean()
    assert near > 0.8 and near > far + 0.1
    untouched = projection.projection.weight.clone()
    fit_projection(projection, tmp_path / "after" / "checkpoint.safetensors", training, voices)  # it has no encoder
    assert torch.equal(projection.projection.weight, untouched)


def test_the_verifier_must_be_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set speaker_encoder"):
        train(tmp_path, CONVERSION, trained[0], HEARD)
    with pytest.raises(InputError, match="set speaker_encoder to the one it was trained with"):
        train(tmp_path, VOCODER, trained[0], f"conversion={trained[1]}", f"output={tmp_path / 'vocoder'}")


# ---------------------------------------------------------------- in use


@pytest.fixture(scope="module")
def folder(trained: tuple[Path, Path], speaker_encoder_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    settings = f"conversion={trained[1]}", f"speaker_encoder={speaker_encoder_file}", "optimizer.steps=2"
    train(place, VOCODER, trained[0], *settings)
    export(trained[1], place / "run" / "checkpoint.safetensors", place / "model")
    return place / "model"


def test_its_embeddings_are_the_verifiers(trained: tuple[Path, Path], speaker_encoder_file: Path, folder: Path) -> None:
    wave = speech(6.0)
    heard = FolderSpeakerEncoder(folder, SMALL.embedding_channels, 1)(wave)
    speaker_encoder = load_campplus(speaker_encoder_file)
    own = torch.stack([speaker_encoder(torch.from_numpy(window)[None])[0] for window in windows(wave)]).mean(dim=0)
    assert heard @ own.numpy() / own.norm() > 0.999  # eight bits
    with torch.no_grad():
        wanted = load_conversion(trained[1]).speaker(torch.from_numpy(heard)[None].float())[0].numpy()
    for device in ("cpu", "torch"):
        engine = vconv.load(folder, device, 1)._engine
        np.testing.assert_allclose(engine.speaker(Utterance.of(wave)), wanted, atol=2e-3)


def test_both_engines_convert_alike(folder: Path) -> None:
    source, target = (speech(1.5), SAMPLE_RATE), (speech(2.0, f0=220.0, seed=4), SAMPLE_RATE)
    waves = [vconv.load(folder, device, 1).convert(source, target) for device in ("cpu", "torch")]
    assert 10 * np.log10(np.square(waves[0]).mean() / np.square(waves[0] - waves[1]).mean()) > 60


def test_units_carry_what_the_verifier_hears(folder: Path) -> None:
    converter = vconv.load(folder, threads=1)
    clip = (speech(2.0), SAMPLE_RATE)
    tokens = converter.encode(clip)
    assert tokens.embedding @ converter.embed(clip) > 0.99
    assert len(converter.decode(tokens)) == tokens.samples


def test_a_voice_is_tuned_by_ear(folder: Path, tmp_path: Path, vconv_cli: Cli) -> None:
    clips = [(speech(12.0, f0=140, seed=k), SAMPLE_RATE) for k in range(2)]
    converter, model = vconv.load(folder, threads=1), tuning.load_model(folder, 1)
    perceptual = tuning.load_perceptual(folder, model.config, [speech_of(clip) for clip in clips])
    assert perceptual.voice.shape == (1, SMALL.embedding_channels) and perceptual.losses.asr_encoder is None
    features = [converter.speech_features(clip) for clip in clips]
    config = tuning.FinetuneConfig(steps=12, check_every=4, items=2, frames=48, voices=2, perceptual_rate=0.03)
    embedding = converter.voice(clips).embedding
    people = np.random.default_rng(0).standard_normal((5, len(embedding)))
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    tuned = tuning.finetune(model, features, embedding, config, people=people, perceptual=perceptual)
    assert tuned.steps > 0 and tuned.after < tuned.before
    again = tuning.finetune(model, features, embedding, config, people=people, perceptual=perceptual)
    np.testing.assert_array_equal(again.adapter, tuned.adapter)
    # Other people's speech is to keep its texture: the adapter is another one.
    content = np.random.default_rng(1).standard_normal((model.config.content_channels, 60))
    foreign = Foreign(content, np.stack([np.zeros(120), np.ones(120)]))
    natural = tuning.finetune(model, features, embedding, config, people=people, perceptual=perceptual, foreign=foreign)
    inputs = *foreign.crop(np.random.default_rng(0)), torch.from_numpy(embedding)[None].float()
    reference = torch.zeros(1, len(content), 2), torch.zeros(1, N_MELS, 4)
    with torch.no_grad():
        plain, changed, kept = (
            model.decoder(*inputs, *reference, adapter)
            for adapter in (None, *(torch.from_numpy(one.adapter)[None] for one in (tuned, natural)))
        )
    assert texture_distance(kept, plain) < texture_distance(changed, plain)
    # From the shell, where there is no population of voices.
    for k, (wave, rate) in enumerate(clips):
        audio.write(tmp_path / f"{k}.wav", wave, rate)
    options = "-o", tmp_path / "voice.npz", "--model", folder, "--steps", 1, "--threads", 1
    done = vconv_cli("finetune", "-t", tmp_path / "0.wav", "-t", tmp_path / "1.wav", *options)
    assert done.code == 0, done.err
    assert Voice.load(tmp_path / "voice.npz").adapter.shape == model.config.adapter_shape


def test_a_model_without_a_verifier_has_no_ear(small_model: Path) -> None:
    assert tuning.load_perceptual(small_model, tuning.load_model(small_model, 1).config, [speech(1.0)]) is None


def test_a_missing_or_wrong_verifier_is_said(folder: Path, trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to another model"):
        FolderSpeakerEncoder(folder, 5, 1)(speech(1.0))
    for name in ("speaker_encoder.onnx", "speaker_encoder.safetensors"):
        moved = (folder / name).rename(tmp_path / name)
        try:
            for device in ("cpu", "torch"):
                with pytest.raises(InputError, match=f"{name}: no such speaker encoder"):
                    vconv.load(folder, device, 1)
        finally:
            moved.rename(folder / name)
    other = tmp_path / "other.safetensors"
    save_campplus(other, CamPlusPlus(dataclasses.replace(SMALL, embedding_channels=5)))
    with pytest.raises(InputError, match="was trained with another speaker encoder"):
        export(trained[1], folder, tmp_path / "model", speaker_encoder=other)
    with pytest.raises(InputError, match="not a speaker encoder"):
        export(trained[1], folder, tmp_path / "model", speaker_encoder=tmp_path / "gone.safetensors")
    assert not (tmp_path / "model").exists()
