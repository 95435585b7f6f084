"""A model that hears its speakers with a verifier: from batches over training to use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vconv.errors import InputError
from vconv.features import SAMPLE_RATE, log_mel
from vconv.verifier import WINDOW_SAMPLES, FolderVerifier, fbank, windows

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

import vconv  # noqa: E402
from tests.conftest import Outcome, speech  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, train  # noqa: E402
from tests.test_verifier import SMALL  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.export import export  # noqa: E402
from vconv.inference.voice import Voice, speech_of  # noqa: E402
from vconv.manifest import read_manifest  # noqa: E402
from vconv.models import verifier as torch_verifier  # noqa: E402
from vconv.models.verifier import Verifier, load_verifier, save_verifier  # noqa: E402
from vconv.training import finetune as tuning  # noqa: E402
from vconv.training.batches import BatchConfig, ConversionSampler, load_corpus  # noqa: E402
from vconv.training.likeness import clip_voices, likeness  # noqa: E402
from vconv.training.load import load_conversion  # noqa: E402
from vconv.training.projection import fit_projection  # noqa: E402
from vconv.training.store import open_store  # noqa: E402

HEARD = "model.speaker=verifier"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, verifier_file: Path) -> tuple[Path, Path]:
    """A corpus with its feature store, and the checkpoint of a model whose speakers the verifier hears."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    settings = HEARD, f"verifier={verifier_file}", "batch.other_voice=0.5", "optimizer.steps=6"
    train(manifest.parent, CONVERSION, manifest, *settings)
    return manifest, manifest.parent / "run" / "checkpoint.safetensors"


# ---------------------------------------------------------------- on a wave


def test_the_energies_are_those_of_training() -> None:
    wave = speech(2.0)
    np.testing.assert_allclose(
        fbank(wave), torch_verifier.fbank(torch.from_numpy(wave)[None])[0], atol=2e-3
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


def test_batches_say_what_is_heard_of_the_reference(training, verifier_file: Path) -> None:
    config = BatchConfig(items=12, frames=32, reference_frames=(32, 48), other_voice=0.5, other_octaves=0.2)
    voices = {octaves: clip_voices(training, str(verifier_file), octaves) for octaves in (0.0, 0.2, -0.2)}
    sampler = ConversionSampler(training, config, 0, voices)
    batch = sampler.batch(0)
    assert batch.voice.shape == (12, SMALL.embedding_channels)
    np.testing.assert_allclose(np.linalg.norm(batch.voice, axis=1), 1, atol=1e-3)
    moved = batch.speaker < 0
    assert moved.any() and not moved.all()

    def within(voice: np.ndarray, speaker: int, octaves: float) -> bool:
        """Whether it lies in the span of what is heard of the speaker's clips."""
        rows = voices[octaves][training.by_speaker[speaker]]
        share = np.linalg.lstsq(rows.T, voice, rcond=None)[0]
        return bool(np.linalg.norm(rows.T @ share - voice) < 1e-3)

    assert all(within(batch.voice[k], int(batch.speaker[k]), 0.0) for k in np.flatnonzero(~moved))
    assert ConversionSampler(training, config, 0).batch(0).voice.shape == (12, 0)


def test_a_clip_made_higher_is_heard_as_another(training, verifier_file: Path) -> None:
    plain, higher = (clip_voices(training, str(verifier_file), octaves) for octaves in (0.0, 0.2))
    assert plain.shape == higher.shape == (len(training.items), SMALL.embedding_channels)
    assert np.abs(plain - higher).max() > 1e-3
    assert len(list(training.store.folder.glob("voices-*.npy"))) >= 2


def test_nobody_is_to_sound_like_what_was_heard_of_him() -> None:
    voices, heard = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    speaker = torch.tensor([0, -1])
    assert likeness(heard, voices, speaker, torch.tensor([[0.0, 0, 1], [0, 1, 0]])) == 0
    assert likeness(heard, voices, speaker, torch.tensor([[0.0, 0, 1], [0, 0, 1]])) == 0.5
    assert likeness(heard, voices, speaker, torch.zeros(2, 0)) == 0


def test_a_model_goes_on_from_one_with_an_encoder(training, verifier_file: Path, tmp_path: Path) -> None:
    manifest = training.store.folder.with_suffix(".tsv")
    train(tmp_path, CONVERSION, manifest, "optimizer.steps=2")
    before = tmp_path / "run" / "checkpoint.safetensors"
    encoder = load_conversion(before).speaker
    settings = HEARD, f"verifier={verifier_file}", f"start_from={before}", "optimizer.learning_rate=0"
    train(tmp_path, CONVERSION, manifest, *settings, f"output={tmp_path / 'after'}", "optimizer.steps=1")
    after = load_conversion(tmp_path / "after" / "checkpoint.safetensors").speaker
    voices = clip_voices(training, str(verifier_file))
    mels = [training.store.clip_mel(item.entry)[:32].astype(np.float32).T for item in training.items]
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(np.stack(mels)))
        near = (after(torch.from_numpy(voices)) * wanted).sum(dim=1).mean()
        fresh = dataclasses.replace(load_conversion(before).config, voice_channels=SMALL.embedding_channels)
        projection = type(after)(fresh)
        far = (projection(torch.from_numpy(voices)) * wanted).sum(dim=1).mean()
    assert near > 0.8 and near > far + 0.1
    untouched = projection.projection.weight.clone()
    fit_projection(projection, tmp_path / "after" / "checkpoint.safetensors", training, voices)  # it has no encoder
    assert torch.equal(projection.projection.weight, untouched)


def test_the_verifier_must_be_named(trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set verifier"):
        train(tmp_path, CONVERSION, trained[0], HEARD)
    with pytest.raises(InputError, match="set verifier to the one it was trained with"):
        train(tmp_path, VOCODER, trained[0], f"conversion={trained[1]}", f"output={tmp_path / 'vocoder'}")


# ---------------------------------------------------------------- in use


@pytest.fixture(scope="module")
def folder(trained: tuple[Path, Path], verifier_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    settings = f"conversion={trained[1]}", f"verifier={verifier_file}", "optimizer.steps=2"
    train(place, VOCODER, trained[0], *settings)
    export(trained[1], place / "run" / "checkpoint.safetensors", place / "model")
    return place / "model"


def test_its_embeddings_are_the_verifiers(trained: tuple[Path, Path], verifier_file: Path, folder: Path) -> None:
    wave = speech(6.0)
    heard = FolderVerifier(folder, SMALL.embedding_channels, 1)(wave)
    verifier = load_verifier(verifier_file)
    own = torch.stack([verifier(torch.from_numpy(window)[None])[0] for window in windows(wave)]).mean(dim=0)
    assert heard @ own.numpy() / own.norm() > 0.999  # eight bits
    with torch.no_grad():
        wanted = load_conversion(trained[1]).speaker(torch.from_numpy(heard)[None].float())[0].numpy()
    for device in ("cpu", "torch"):
        engine = vconv.load(folder, device, 1)._engine
        np.testing.assert_allclose(engine.speaker(wave, log_mel(wave)), wanted, atol=2e-3)


def test_both_engines_convert_alike(folder: Path) -> None:
    source, target = (speech(1.5), SAMPLE_RATE), (speech(2.0, f0=220.0, seed=4), SAMPLE_RATE)
    waves = [vconv.load(folder, device, 1).convert(source, target) for device in ("cpu", "torch")]
    assert 10 * np.log10(np.square(waves[0]).mean() / np.square(waves[0] - waves[1]).mean()) > 60


def test_units_carry_what_the_verifier_hears(folder: Path) -> None:
    converter = vconv.load(folder, threads=1)
    clip = (speech(2.0), SAMPLE_RATE)
    units = converter.encode(clip)
    assert units.embedding @ converter.embed(clip) > 0.99
    assert len(converter.decode(units)) == units.samples


def test_a_voice_is_tuned_by_ear(folder: Path, tmp_path: Path, vconv_cli: Callable[..., Outcome]) -> None:
    clips = [(speech(12.0, f0=140, seed=k), SAMPLE_RATE) for k in range(2)]
    converter, model = vconv.load(folder, threads=1), tuning.load_model(folder, 1)
    ear = tuning.load_ear(folder, model.config, [speech_of(clip) for clip in clips])
    assert ear.voice.shape == (1, SMALL.embedding_channels) and ear.listener.recognizer is None
    features = [converter.speech_features(clip) for clip in clips]
    config = tuning.FinetuneConfig(steps=12, check_every=4, items=2, frames=48, voices=2, listening_rate=0.03)
    embedding = converter.voice(clips).embedding
    people = np.random.default_rng(0).standard_normal((5, len(embedding)))
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    tuned = tuning.finetune(model, features, embedding, config, people=people, ear=ear)
    assert tuned.steps > 0 and tuned.after < tuned.before
    again = tuning.finetune(model, features, embedding, config, people=people, ear=ear)
    np.testing.assert_array_equal(again.style, tuned.style)
    # From the shell, where there is no population of voices.
    for k, (wave, rate) in enumerate(clips):
        audio.write(tmp_path / f"{k}.wav", wave, rate)
    options = "-o", tmp_path / "voice.npz", "--model", folder, "--steps", 1, "--threads", 1
    done = vconv_cli("finetune", "-t", tmp_path / "0.wav", "-t", tmp_path / "1.wav", *options)
    assert done.code == 0, done.err
    assert Voice.load(tmp_path / "voice.npz").style.shape == model.config.style_shape


def test_a_model_without_a_verifier_has_no_ear(small_model: Path) -> None:
    assert tuning.load_ear(small_model, tuning.load_model(small_model, 1).config, [speech(1.0)]) is None


def test_a_missing_or_wrong_verifier_is_said(folder: Path, trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to another model"):
        FolderVerifier(folder, 5, 1)(speech(1.0))
    for name in ("verifier.onnx", "verifier.safetensors"):
        moved = (folder / name).rename(tmp_path / name)
        try:
            for device in ("cpu", "torch"):
                with pytest.raises(InputError, match=f"{name}: no such verifier"):
                    vconv.load(folder, device, 1)
        finally:
            moved.rename(folder / name)
    other = tmp_path / "other.safetensors"
    save_verifier(other, Verifier(dataclasses.replace(SMALL, embedding_channels=5)))
    with pytest.raises(InputError, match="was trained with another verifier"):
        export(trained[1], folder, tmp_path / "model", verifier=other)
    with pytest.raises(InputError, match="not a verifier"):
        export(trained[1], folder, tmp_path / "model", verifier=tmp_path / "gone.safetensors")
    assert not (tmp_path / "model").exists()
