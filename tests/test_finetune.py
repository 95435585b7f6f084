"""Tuning a voice: on the miniature model, with synthetic speech of one speaker."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vconv
from tests.conftest import REPOSITORY, Cli, speech
from vconv import audio
from vconv.errors import InputError
from vconv.features import N_MELS, SAMPLE_RATE, continuous_log_f0
from vconv.voice import Voice

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

torch = pytest.importorskip("torch")
tuning = pytest.importorskip("vconv.training.finetune")
adapted = pytest.importorskip("vconv.models.layers").adapted
Clip = tuple[np.ndarray, np.ndarray, np.ndarray]
SHORT = tuning.FinetuneConfig(steps=20, items=4, frames=64, voices=2, learning_rate=0.03)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips of one voice, 24 s together."""
    folder = tmp_path_factory.mktemp("clips") / "speaker"
    folder.mkdir()
    for k in range(2):
        audio.write(folder / f"{k}.wav", speech(12.0, f0=140, seed=k), SAMPLE_RATE)
    return folder


@pytest.fixture(scope="module")
def clips(small_model: Path, speaker: Path) -> list[Clip]:
    converter = vconv.load(small_model, threads=1)
    return [converter.speech_features(path) for path in sorted(speaker.iterdir())]


@pytest.fixture(scope="module")
def voice(small_model: Path, speaker: Path) -> Voice:
    return vconv.load(small_model, threads=1).voice(speaker)


def test_a_tuned_style_rebuilds_other_speech_of_the_speaker_better(
    small_model: Path, clips: list[Clip], voice: Voice
) -> None:
    model = tuning.load_model(small_model, 1)
    told = []
    tuned = tuning.finetune(model, clips, voice.embedding, SHORT, lambda done, steps: told.append((done, steps)))
    assert tuned.adapter.shape == model.config.adapter_shape and tuned.adapter.dtype == np.float32
    assert told[0] == (1, 20) and told[-1][0] >= tuned.steps > 0
    assert tuned.after < 0.97 * tuned.before

    converter = vconv.load(small_model, threads=1)
    mel, f0, _ = converter.speech_features((speech(4.0, f0=140, seed=7), SAMPLE_RATE))
    pitch = np.stack(continuous_log_f0(f0))[:, : mel.shape[1]]
    with torch.no_grad():
        heard, pitch, embedding, reference, adapter = (
            torch.tensor(x, dtype=torch.float32)[None]
            for x in (mel, pitch, voice.embedding, clips[0][0], tuned.adapter)
        )
        inputs = model.encode(heard).z_q, pitch, embedding, model.encode(reference).z_q, reference
        plain, better = model.decoder(*inputs), model.decoder(*inputs, adapter)
    assert (better - heard).abs().mean() < 0.97 * (plain - heard).abs().mean()


def test_no_style_is_a_style_of_zeros(small_model: Path) -> None:
    model = tuning.load_model(small_model, 1)
    config = model.config
    torch.manual_seed(0)
    content, pitch, embedding = torch.randn(1, config.content_channels, 20), torch.zeros(1, 2, 40), torch.randn(1, 24)
    inputs = content, pitch, embedding, content, torch.randn(1, N_MELS, 40)
    plain = model.decoder(*inputs)
    torch.testing.assert_close(model.decoder(*inputs, torch.zeros(1, *config.adapter_shape)), plain)
    for layer in range(config.adapter_shape[0]):  # each layer's adapter is heard
        adapter = torch.zeros(1, *config.adapter_shape)
        adapter[:, layer] = 0.5
        assert (model.decoder(*inputs, adapter) - plain).abs().max() > 1e-3
    torch.testing.assert_close(model.decoder(*inputs, tuning._first_adapter(config)), plain)


def test_a_style_adds_to_a_layer_the_product_of_its_factors() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(5, 7), torch.randn(2, 3, 5)
    down, up = torch.randn(4, 5), torch.randn(4, 7)  # rank 4
    whole = torch.nn.Linear(5, 7)
    whole.load_state_dict({"weight": layer.weight + up.T @ down, "bias": layer.bias})
    torch.testing.assert_close(adapted(layer, x, torch.cat([down, up], dim=1).view(1, -1)), whole(x))
    assert torch.equal(adapted(layer, x, None), layer(x))


def test_every_factor_is_tuned_and_heard(small_model: Path) -> None:
    model = tuning.load_model(small_model, 1)
    config = model.config
    assert config.adapter_rank > 0
    torch.manual_seed(0)
    adapter = tuning._first_adapter(config) + 0.01 * torch.randn(1, *config.adapter_shape)
    adapter.requires_grad_()
    content, embedding = torch.randn(1, config.content_channels, 20), torch.randn(1, 24)
    mel = model.decoder(content, torch.zeros(1, 2, 40), embedding, content, torch.randn(1, N_MELS, 40), adapter)
    mel.square().mean().backward()
    assert adapter.grad[:, :-1].all()  # the last layer has no MLP behind it
    assert adapter.grad[:, -1, : 2 * config.decoder_channels].all()


def test_pieces_are_the_clips_and_some_are_held_out(small_model: Path, clips: list[Clip]) -> None:
    model = tuning.load_model(small_model, 1)
    pieces = tuning._cut(model, clips, torch.randn(1, 24), np.random.default_rng(0), 3)
    np.testing.assert_array_equal(
        np.concatenate([piece.mel for piece in pieces], axis=1), np.concatenate([clip[0] for clip in clips], axis=1)
    )
    for piece in pieces:
        frames = piece.mel.shape[1]
        assert (piece.pitch.shape, 2 * piece.content.shape[1]) == ((2, frames), frames)
        assert 0.5 < frames / tuning.PIECE_FRAMES < 1.5
        assert piece.others.shape == (3, *piece.content.shape)
        assert len(np.unique(piece.others, axis=0)) == 3
    kept, held_out = tuning._split(pieces, 0)
    assert sorted(map(id, kept + held_out)) == sorted(map(id, pieces)) and len(held_out) == 1


def test_it_stops_when_held_out_speech_gains_no_more(small_model: Path, clips: list[Clip], voice: Voice) -> None:
    """A rate that wrecks the voice at once: two looks without progress, and what it began with is kept."""
    config = dataclasses.replace(SHORT, learning_rate=100.0, check_every=2, patience=2)
    told = []
    model = tuning.load_model(small_model, 1)
    tuned = tuning.finetune(model, clips, voice.embedding, config, lambda done, steps: told.append(done))
    assert told == [1, 2, 3, 4]
    assert (tuned.steps, tuned.after) == (0, tuned.before) and not tuned.adapter.any()


# ---------------------------------------------------------------- the command


def test_the_file_is_a_voice_that_convert_takes(
    vconv_cli: Cli, small_model: Path, speaker: Path, voice: Voice, tmp_path: Path
) -> None:
    place, source = tmp_path / "new" / "tuned.npz", speaker / "0.wav"
    arguments = ("finetune", "--target", speaker, "-o", place, "--steps", 20, "--model", small_model, "--threads", 1)
    done = vconv_cli(*arguments)
    assert (done.code, done.err) == (0, "")
    assert f"wrote {place}; error on held-out speech: " in done.out and "after 20 steps" in done.out
    assert place.stat().st_size < 2e6
    tuned = Voice.load(place)
    np.testing.assert_allclose(tuned.embedding, voice.embedding, atol=1e-6)
    assert tuned.adapter.any()

    assert vconv_cli("convert", source, "-t", place, "-o", tmp_path / "out.wav", "--model", small_model).code == 0
    converter = vconv.load(small_model, threads=1)
    wave, plain = converter.convert(source, place), converter.convert(source, dataclasses.replace(tuned, adapter=None))
    assert wave.shape == plain.shape and np.abs(wave - plain).max() > 1e-3
    np.testing.assert_allclose(audio.read(tmp_path / "out.wav")[0], wave, atol=1e-3)

    again, other = tmp_path / "again.npz", tmp_path / "other.npz"
    for path, seed in ((again, 0), (other, 1)):
        assert vconv_cli(*arguments[:3], "-o", path, *arguments[5:], "--seed", seed).code == 0
    assert again.read_bytes() == place.read_bytes() != other.read_bytes()

    done = vconv_cli(*arguments)
    assert done.code == 2 and "exists already; pass --overwrite" in done.error


def test_what_cannot_be_tuned_is_said_in_a_line(
    vconv_cli: Cli, small_model: Path, speaker: Path, tmp_path: Path
) -> None:
    def error(*arguments: object, model: Path = small_model) -> str:
        done = vconv_cli("finetune", *arguments, "-o", tmp_path / "voice.npz", "--model", model)
        assert done.code == 2
        assert not (tmp_path / "voice.npz").exists()
        return done.error

    assert "12 s of speech are too little" in error("-t", speaker / "0.wav")
    assert "at least 20 s" in error("-t", speaker / "0.wav")
    assert "no such file" in error("-t", tmp_path / "nobody.wav")
    assert "is written as .npz" in vconv_cli("finetune", "-t", speaker, "-o", tmp_path / "voice.wav").error
    bare = shutil.copytree(small_model, tmp_path / "bare")
    (bare / "conversion.safetensors").unlink()
    assert "conversion.safetensors: is missing, and fine-tuning needs it" in error("-t", speaker, model=bare)


def test_it_asks_for_the_extra_where_torch_is_missing(small_model: Path, speaker: Path) -> None:
    arguments = ["finetune", "--target", str(speaker), "--model", str(small_model)]
    code = f"import sys; sys.modules['torch'] = None; from vconv import cli; sys.exit(cli.run({arguments}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "vconv: this command needs torch; install it with: pip install 'vconv[train]'\n"


def test_a_voice_tuned_for_another_model_is_refused(small_model: Path, voice: Voice, speaker: Path) -> None:
    other = dataclasses.replace(voice, adapter=np.zeros((8, 448), np.float32))
    converter = vconv.load(small_model, threads=1)
    with pytest.raises(InputError, match="tuned for another model"):
        converter.convert(speaker / "0.wav", other)
    # Of the same shape, but for other weights.
    adapter = np.zeros(tuning.load_model(small_model, 1).config.adapter_shape, np.float32)
    assert converter.voice(dataclasses.replace(voice, adapter=adapter, model=converter.model)).adapter is adapter
    with pytest.raises(InputError, match="tuned for another model"):
        converter.voice(dataclasses.replace(voice, adapter=adapter, model=bytes(len(converter.model))))
