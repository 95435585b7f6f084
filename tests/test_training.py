"""Training in miniature: it learns, it resumes exactly, and its result converts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import SPEAKERS, make_corpus  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import N_MELS, OUTPUT_HOP  # noqa: E402
from vconv.manifest import read_manifest  # noqa: E402
from vconv.training import checkpoint, run  # noqa: E402
from vconv.training.batches import BatchConfig, ConversionSampler, load_corpus  # noqa: E402
from vconv.training.conversion import ConversionTraining, Learner, weigh  # noqa: E402
from vconv.training.load import load_conversion  # noqa: E402
from vconv.training.store import open_store  # noqa: E402

CONVERSION = """
task: conversion
threads: 1
corpus: {processes: 1}
model:
  channels: 24
  content_blocks: [1, 1]
  content_channels: 8
  speaker_blocks: 1
  embedding_channels: 16
  decoder_channels: 32
  decoder_blocks: [1, 2]
  bottleneck: {groups: 2, codes: 16}
batch: {items: 6, frames: 32, reference_frames: [32, 48], phone_items: 2}
optimizer: {steps: 60, warmup: 5, learning_rate: 4.0e-3, ema: 0.9}
log: {every: 10, save_every: 20, validate_every: 30}
"""
VOCODER = """
task: vocoder
threads: 1
corpus: {processes: 1}
model: {channels: 24, blocks: 1}
discriminators: {periods: [3], n_ffts: [256], width: 4}
batch: {items: 2, frames: 12, context_frames: 4}
losses: {n_ffts: [512, 128], adversarial_from: 30}
optimizer: {steps: 40, warmup: 5, learning_rate: 3.0e-3, ema: 0.9}
log: {every: 10, save_every: 20, validate_every: 100}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A manifest whose feature store is built."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    config = manifest.with_name("first.yaml")
    config.write_text(CONVERSION)
    output = manifest.parent / "first"
    run(config, [f"corpus.manifest={manifest}", f"output={output}", "optimizer.steps=1"])
    return manifest


def train(folder: Path, text: str, manifest: Path, *overrides: str, resume: bool = False) -> dict:
    config = folder / "config.yaml"
    config.write_text(text)
    path = run(config, [f"corpus.manifest={manifest}", f"output={folder / 'run'}", *overrides], resume)
    return checkpoint.load(path)


def scalars(folder: Path, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def test_the_store_holds_what_the_manifest_names(corpus: Path) -> None:
    store = open_store(corpus.with_suffix(".store"))
    clips = read_manifest(corpus)
    assert sorted(entry.path for entry in store.entries) == sorted(str(clip.path) for clip in clips)
    training, validation = load_corpus(store, clips)
    assert (len(training.items), len(validation.items)) == (20, 4)
    assert training.speakers == sorted(SPEAKERS)
    # Parallel clips stay aligned, so they have the same length and the same melody.
    for members in training.by_group.values():
        assert len({training.items[i].entry.frames for i in members}) == 1
        curves = [store.clip_f0(training.items[i].entry) for i in members]
        voiced = np.min(curves, axis=0) > 0
        assert voiced.mean() > 0.4
        spread = np.ptp(np.log2(np.array(curves)[:, voiced]), axis=0)
        assert np.median(spread) < 0.02


def test_batches_depend_on_seed_step_and_rank_only(corpus: Path) -> None:
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    config = BatchConfig(items=6, frames=32, reference_frames=(32, 48), phone_items=2)
    a, b = (ConversionSampler(training, config, seed=3) for _ in range(2))
    a.batch(0)
    for name, value in vars(a.batch(7)).items():
        np.testing.assert_array_equal(value, vars(b.batch(7))[name])
    assert not np.array_equal(a.batch(7).clean, a.batch(7, rank=1).clean)
    batch = a.batch(1)
    assert batch.source.shape == batch.clean.shape == (6, N_MELS, 32)
    assert batch.pitch.shape == (6, 2, 32)
    assert (batch.speaker != batch.source_speaker).all()  # all clips here are parallel
    assert (batch.phone_counts == 10).all()


def test_conversion_learns(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path, CONVERSION, corpus)
    losses = scalars(tmp_path, "reconstruction")
    assert losses[0] > 0.3
    assert losses[-1] < 0.5 * losses[0]
    assert scalars(tmp_path, "validation")[-1] < 0.5 * losses[0]
    model = load_conversion(tmp_path / "run" / "checkpoint.safetensors")
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    members = [training.by_speaker[speaker] for speaker in range(len(SPEAKERS))]
    mels = [training.store.clip_mel(training.items[i].entry)[:96].T.astype(np.float32) for m in members for i in m]
    with torch.no_grad():
        embeddings = model.speaker(torch.from_numpy(np.stack(mels))).unflatten(0, (len(members), -1))
    # Every clip is nearest to its own speaker's others.
    centres = torch.nn.functional.normalize(embeddings.mean(dim=1), dim=1)
    nearest = (embeddings @ centres.T).argmax(dim=2)
    assert (nearest == torch.arange(len(members))[:, None]).float().mean() > 0.9


EVERYTHING = (
    "losses.adversary_from=0",
    "losses.cycle=0.5",
    "losses.cycle_from=1",
    "losses.cycle_items=3",
    "losses.realism=0.1",
    "losses.realism_from=3",
)


@pytest.mark.parametrize(
    ("text", "extra"),
    [(CONVERSION, EVERYTHING), (VOCODER, ("losses.adversarial_from=2",))],
    ids=["conversion", "vocoder"],
)
def test_a_resumed_run_is_the_uninterrupted_one(corpus: Path, tmp_path: Path, text: str, extra: tuple) -> None:
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = train(folders[0], text, corpus, "optimizer.steps=8", "log.save_every=5", *extra)
    # Killed after step 6 of 8: what is there is the checkpoint of step 5.
    import vconv.training.common as common

    original = common.Averages.add
    calls = []

    def die(self: object, values: dict) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        original(self, values)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(common.Averages, "add", die)
        train(folders[1], text, corpus, "optimizer.steps=8", "log.save_every=5", *extra)
    assert checkpoint.load(folders[1] / "run" / "checkpoint.safetensors")["step"] == 5
    resumed = train(folders[1], text, corpus, "optimizer.steps=8", "log.save_every=5", *extra, resume=True)
    assert resumed["step"] == whole["step"] == 8
    part = "learner" if "learner" in whole else "vocoder"
    for state in (part, "ema"):
        for name, value in whole[state].items():
            torch.testing.assert_close(resumed[state][name], value, rtol=0, atol=1e-6)


def test_vocoder_learns(corpus: Path, tmp_path: Path) -> None:
    state = train(tmp_path, VOCODER, corpus)
    losses = scalars(tmp_path, "spectral")
    assert losses[-1] < 0.85 * losses[0]
    assert state["step"] == 40
    assert len(scalars(tmp_path, "critic")) >= 1


def test_conversion_can_be_heard(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "vocoder").mkdir()
    train(tmp_path / "vocoder", VOCODER, corpus, "optimizer.steps=1")
    vocoder = tmp_path / "vocoder" / "run" / "checkpoint.safetensors"
    train(tmp_path, CONVERSION, corpus, f"listen={vocoder}", "optimizer.steps=1", "log.validate_every=1")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert "result/0" in events.Tags()["audio"]
    assert len(events.Tags()["images"]) == 2
    conversion = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(InputError, match="holds a conversion training, not a vocoder one"):
        train(tmp_path, CONVERSION, corpus, f"listen={conversion}", f"output={tmp_path / 'other'}")


def test_a_checkpoint_of_another_shape_is_refused(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    with pytest.raises(InputError, match="does not fit this config"):
        train(tmp_path, VOCODER, corpus, "model.channels=32", resume=True)
    with pytest.raises(InputError, match="does not fit this config"):
        train(tmp_path, CONVERSION, corpus, resume=True)


def test_vocoder_trains_on_predicted_mels(corpus: Path, tmp_path: Path) -> None:
    conversion = corpus.parent / "first" / "checkpoint.safetensors"
    assert train(tmp_path, VOCODER, corpus, f"conversion={conversion}", "optimizer.steps=2")["step"] == 2


def test_a_run_is_never_overwritten(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    with pytest.raises(InputError, match="--resume"):
        train(tmp_path, VOCODER, corpus, "optimizer.steps=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.steps=1", "did you mean 'optimizer'"),
        ("task=singing", "expected conversion or vocoder"),
        ("corpus.manifest=/nowhere/manifest.tsv", "/nowhere/manifest.tsv"),
    ],
)
def test_bad_settings_are_named(corpus: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, CONVERSION, corpus, override)


@pytest.mark.parametrize("kind", ["reversal", "alternating"])
def test_the_adversary_pulls_the_encoder_away_from_what_the_classifier_reads(corpus: Path, kind: str) -> None:
    """Against a classifier that is right, the encoder's gradient must make it less right."""
    from vconv.config import build

    torch.manual_seed(0)
    config = build(
        ConversionTraining,
        {
            "model": {"channels": 16, "content_channels": 8, "bottleneck": {"kind": "identity"}},
            "losses": {"adversary": 1.0, "adversary_kind": kind},
        },
    )
    learner = Learner(config, 2, 3)
    z = torch.randn(8, 8, 40)
    speaker = torch.arange(8) % 2
    z += speaker.view(-1, 1, 1) * 2.0
    optimizer = torch.optim.Adam(learner.classifier.parameters(), 1e-2)
    loss = torch.tensor(1.0)
    while loss > 0.1:  # the classifier learns to read the offset, but not so well that no gradient is left
        loss = torch.nn.functional.cross_entropy(learner.classifier(z), speaker)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z.requires_grad_(True)
    weigh(learner._adversary(z, speaker), config.losses).backward()
    with torch.no_grad():
        step = z.grad / z.grad.norm()
        after = torch.nn.functional.cross_entropy(learner.classifier(z - step), speaker)
        before = torch.nn.functional.cross_entropy(learner.classifier(z), speaker)
    assert after > before
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.classifier.output.parameters())


def test_padding_in_the_store_is_whole_frames(corpus: Path) -> None:
    store = open_store(corpus.with_suffix(".store"))
    assert store.wave.shape == (len(store.f0), OUTPUT_HOP)
    assert store.mel.shape == (len(store.f0), N_MELS)
