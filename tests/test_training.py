"""Training in miniature: it learns, it resumes exactly, and its result converts."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import SPEAKERS, make_corpus  # noqa: E402
from vconv.data.augmentation.mel import PerturbConfig  # noqa: E402
from vconv.data.batches import BatchConfig, ConversionSampler  # noqa: E402
from vconv.data.corpus import load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.store import open_store  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import N_MELS, OUTPUT_HOP  # noqa: E402
from vconv.model_folder import record_digests  # noqa: E402
from vconv.models import saved  # noqa: E402
from vconv.models.speaker_classifier import CodeClassifier  # noqa: E402
from vconv.training import checkpoint, run  # noqa: E402
from vconv.training.conversion_settings import ConversionTraining, LossConfig  # noqa: E402
from vconv.training.learner import Learner, moved_pitch  # noqa: E402
from vconv.training.losses import weigh  # noqa: E402
from vconv.training.predict import PredictedMels  # noqa: E402
from vconv.training.trained import load_conversion, load_vocoder  # noqa: E402

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
  attention_channels: 16
  attention_heads: 2
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
    config = dataclasses.replace(config, perturb=PerturbConfig(mask=0.5, mask_band=0.5))
    a, b = (ConversionSampler(training, config, seed=3) for _ in range(2))
    a.batch(0)
    np.testing.assert_equal(a.batch(7), b.batch(7))
    assert not np.array_equal(a.batch(7).clean.mel, a.batch(7, rank=1).clean.mel)
    batch = a.batch(1)
    assert batch.source.mel.shape == batch.clean.mel.shape == (6, N_MELS, 32)
    assert batch.pitch.shape == (6, 2, 32)
    speakers = [
        (training.items[i].speaker, training.items[k].speaker) for i, k in a.draw_pairs(np.random.default_rng(0))
    ]
    assert all(source != target for source, target in speakers)  # all clips here are parallel
    assert (batch.phone_clips.counts == 10).all()
    np.testing.assert_array_equal(batch.label, batch.speaker)


def test_clips_alone_in_their_group_are_drawn_as_single_ones(corpus: Path) -> None:
    """Where a speaker of a parallel corpus is kept out, some sentences have one clip left."""
    clips = [clip for clip in read_manifest(corpus) if clip.speaker in ("low", "high")]
    alone = sorted({clip.group for clip in clips})[0]
    kept = [clip for clip in clips if clip.group != alone or clip.speaker == "low"]
    store, config = open_store(corpus.with_suffix(".store")), BatchConfig(items=6, frames=32)
    training, _ = load_corpus(store, kept)
    pairs = ConversionSampler(training, config, 0).draw_pairs(np.random.default_rng(0))
    groups = [(training.items[a].group, training.items[b].group) for a, b in pairs]
    assert {one for one, other in groups if one == other == alone} == {alone}
    assert any(one == other != alone for one, other in groups)
    lone, _ = load_corpus(store, [clip for clip in clips if clip.speaker == "low"])
    assert all(a == b for a, b in ConversionSampler(lone, config, 0).draw_pairs(np.random.default_rng(0)))


def test_references_of_unseen_speakers_are_of_one_speaker_each(corpus: Path) -> None:
    """They all have the number -1, and the best checkpoint is chosen by their clips."""
    unseen, clips = ("high", "child"), read_manifest(corpus)
    clips = [dataclasses.replace(clip, split="valid" if clip.speaker in unseen else "train") for clip in clips]
    _, validation = load_corpus(open_store(corpus.with_suffix(".store")), clips)
    assert {item.speaker for item in validation.items} == {-1}
    whose = np.array([[item.speaker_name == name for name in unseen] for item in validation.items], np.float32)
    config = BatchConfig(items=12, frames=32, reference_frames=(288, 288))  # some clips long
    sampler = ConversionSampler(validation, config, 0, {0.0: whose})
    targets = [b for _, b in sampler.draw_pairs(np.random.default_rng([0, 0, 0]))]
    assert len({validation.items[b].speaker_name for b in targets}) == 2
    np.testing.assert_allclose(sampler.batch(0).speaker_embedding, whose[targets], atol=1e-6)


def test_false_voicing_adds_to_f0_where_there_is_none(corpus: Path) -> None:
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    config = BatchConfig(items=12, frames=32, reference_frames=(32, 48))
    plain = ConversionSampler(training, config, 0).batch(0)
    np.testing.assert_array_equal(plain.pitch, plain.clean_pitch)
    batch = ConversionSampler(training, dataclasses.replace(config, false_voicing=1.0), 0).batch(0)
    voiced = batch.clean_pitch[:, 1] > 0
    np.testing.assert_array_equal(batch.pitch[:, 0][voiced], batch.clean_pitch[:, 0][voiced])
    assert batch.pitch[:, 1][voiced].all() and batch.pitch[:, 1].sum() > voiced.sum()


def test_labels_are_those_of_the_manifest(corpus: Path) -> None:
    clips = read_manifest(corpus)
    training, validation = load_corpus(open_store(corpus.with_suffix(".store")), clips, "accent")
    assert training.label_set == validation.label_set == ["north", "south"]
    known = {training.speakers.index("low"): 0, training.speakers.index("middle"): 0}
    known |= {training.speakers.index("high"): 1, training.speakers.index("child"): -1}
    for part in (training, validation):
        assert {item.speaker: item.label for item in part.items} == known
    batch = ConversionSampler(training, BatchConfig(items=24, frames=32, reference_frames=(32, 48)), 0).batch(0)
    assert [known[speaker] for speaker in batch.speaker] == batch.label.tolist()


def test_masks_are_in_the_source_alone(corpus: Path) -> None:
    """What is to be rebuilt is whole: masked prediction."""
    clips = [dataclasses.replace(clip, group="") for clip in read_manifest(corpus)]
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), clips)
    masks = PerturbConfig(
        warp=0, equalizer=0, blur=0, noise=0, reverb=0, band_limit=0, mask=1, mask_spans=(1, 1), mask_frames=(8, 8)
    )
    config = BatchConfig(items=6, frames=32, reference_frames=(32, 48), perturb=masks)
    batch = ConversionSampler(training, config, 0).batch(0)
    for source, clean in zip(batch.source.mel, batch.clean.mel):
        frames = np.flatnonzero((source != clean).any(axis=0))
        assert len(frames) == np.ptp(frames) + 1 == 8
        np.testing.assert_allclose(source[:, frames], np.broadcast_to(clean.mean(axis=1)[:, None], (N_MELS, 8)), 1e-5)


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
    # Most clips are nearest to their own speaker's others.
    centres = torch.nn.functional.normalize(embeddings.mean(dim=1), dim=1)
    nearest = (embeddings @ centres.T).argmax(dim=2)
    assert (nearest == torch.arange(len(members))[:, None]).float().mean() > 0.7


EVERYTHING = (
    "losses.adversary_from=0",
    "losses.cycle=0.5",
    "losses.cycle_from=1",
    "losses.cycle_items=3",
    "losses.realism=0.1",
    "losses.realism_from=3",
    "losses.cpc=0.3",
    "losses.content_information=0.3",
    "losses.speaker_information=0.3",
    "losses.speaker_information_from=2",
    "batch.perturb.mask=0.5",
    "batch.perturb.mask_band=0.5",
)


# Each switch by itself, and the losses that it adds.
SWITCHES = {
    "accent": (("losses.adversary_label=accent", "losses.adversary_from=0"), {"adversary"}),
    "accent, alternating": (
        ("losses.adversary_label=accent", "losses.adversary_from=0", "losses.adversary_kind=alternating"),
        {"adversary"},
    ),
    "mask": (("batch.perturb.mask=1", "batch.perturb.mask_band=1", "batch.parallel_perturb=1"), set()),
    "cpc": (("losses.cpc=0.5", "losses.cpc_steps=4"), {"cpc"}),
    "content information": (("losses.content_information=0.5",), {"content_information"}),
    "speaker information": (
        ("losses.speaker_information=0.5", "losses.speaker_information_from=0"),
        {"speaker_information"},
    ),
    "cycle": (("losses.cycle=0.5", "losses.cycle_from=0"), {"cycle"}),
    "realism": (("losses.realism=0.1", "losses.realism_from=0"), {"realism", "matching", "critic"}),
    "realism without matching": (
        ("losses.realism=0.1", "losses.realism_from=0", "losses.matching=0"),
        {"realism", "critic"},
    ),
    "realism of reconstructions": (
        ("losses.realism=0.1", "losses.realism_from=0", "losses.cycle_items=0"),
        {"realism", "matching", "critic"},
    ),
    "nothing but reconstruction": (
        tuple(f"losses.{name}=0" for name in ("commitment", "code_consistency", "speaker", "adversary", "phones")),
        set(),
    ),
}
ALWAYS = {"reconstruction", "commitment", "code_consistency", "speaker", "phones"}
MEASURED = {"gradient", "validation", "held_out/mel_distance", "codebook/perplexity", "codebook/use"}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_works_alone_and_what_is_off_is_not_computed(corpus: Path, tmp_path: Path, name: str) -> None:
    overrides, added = SWITCHES[name]
    state = train(tmp_path, CONVERSION, corpus, "optimizer.steps=2", "log.every=1", *overrides)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    expected = {"reconstruction"} if name == "nothing but reconstruction" else ALWAYS | added
    assert set(events.Tags()["scalars"]) == expected | MEASURED
    assert all(np.isfinite(event.value) for tag in expected for event in events.Scalars(tag))
    # The heads of what is off are not even there.
    heads = {key.partition(".")[0] for key in state["learner"]} - {"model", "speaker_head", "classifier", "phone_head"}
    assert len(heads) == len(added & {"cpc", "content_information", "speaker_information"})
    assert (state["critic_optimizer"]["state"] != {}) == ("critic" in added)


def test_a_batch_may_be_of_one_item(corpus: Path, tmp_path: Path) -> None:
    settings = "batch.items=1", "optimizer.steps=1", "log.validate_every=1"
    train(tmp_path, CONVERSION, corpus, *settings)
    assert np.isfinite(scalars(tmp_path, "validation")).all()


def test_perceptual_losses_alone_need_the_decoder() -> None:
    off = LossConfig(reconstruction=0.0, realism=0.0, cycle=0.0)
    assert not off.decodes
    for name in ("speaker_similarity", "content_consistency"):
        on = dataclasses.replace(off, **{name: 1.0})
        assert on.decodes and on.converts(0)


def test_a_run_with_new_heads_begins_with_the_weights_of_one_without(corpus: Path, tmp_path: Path) -> None:
    initial = corpus.parent / "first" / "checkpoint.safetensors"
    before = checkpoint.load(initial)["ema"]
    overrides = [f"start_from={initial}", "optimizer.steps=1", "optimizer.learning_rate=1e-9"]
    overrides += ["losses.adversary_label=accent", "losses.cpc=1", "losses.speaker_information=1"]
    after = train(tmp_path, CONVERSION, corpus, "optimizer.weight_decay=0", *overrides)["learner"]
    torch.testing.assert_close(after["model.decoder.output.weight"], before["decoder.output.weight"])
    assert after["classifier.output.weight"].shape[0] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("losses.adversary_label=mood",), "have nothing in a column 'mood'"),
        (("losses.adversary_label=sex",), "have nothing in a column 'sex'"),
        (("losses.adversary_label=sample_rate",), "have '24000' alone in a column 'sample_rate'"),
        (("losses.cpc=1", "losses.cpc_steps=16"), "use 1 to 15"),
        (("losses.cpc=1", "losses.cpc_steps=0"), "use 1 to 15"),
    ],
)
def test_a_switch_that_cannot_work_is_told_at_once(
    corpus: Path, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, CONVERSION, corpus, f"corpus.store={tmp_path / 'store'}", *overrides)
    assert not (tmp_path / "store").exists()
    # What is off is not looked at.
    settings = [setting for setting in overrides if "=1" not in setting] + ["losses.adversary=0", "losses.cpc=0"]
    assert train(tmp_path, CONVERSION, corpus, "optimizer.steps=1", *settings)["step"] == 1


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
    # Killed in step 6 of 8: what is there is the checkpoint of step 5.
    import vconv.training.optimizer as optimizer

    original = optimizer.Ema.update
    calls = []

    def die(self: object, module: torch.nn.Module, step: int) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        original(self, module, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optimizer.Ema, "update", die)
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
    train(tmp_path, CONVERSION, corpus, f"vocoder={vocoder}", "optimizer.steps=1", "log.validate_every=1")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert "result/0" in events.Tags()["audio"]
    assert len(events.Tags()["images"]) == 2
    conversion = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(InputError, match="holds a conversion training, not a vocoder one"):
        train(tmp_path, CONVERSION, corpus, f"vocoder={conversion}", f"output={tmp_path / 'other'}")


def test_a_checkpoint_of_another_shape_is_refused(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    with pytest.raises(InputError, match="does not fit this config"):
        train(tmp_path, VOCODER, corpus, "model.channels=32", resume=True)
    with pytest.raises(InputError, match="does not fit this config"):
        train(tmp_path, CONVERSION, corpus, resume=True)


def test_a_run_begins_with_the_weights_of_another_where_they_fit(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    initial = corpus.parent / "first" / "checkpoint.safetensors"
    before = checkpoint.load(initial)["ema"]
    overrides = f"start_from={initial}", "optimizer.steps=1", "optimizer.learning_rate=1e-9", "optimizer.weight_decay=0"
    after = train(tmp_path, CONVERSION, corpus, "model.attention_channels=32", *overrides)["learner"]
    torch.testing.assert_close(after["model.decoder.output.weight"], before["decoder.output.weight"])
    assert after["model.decoder.attention.query.weight"].shape[0] == 32
    printed = capfd.readouterr().out
    assert "begin fresh" in printed and "model.decoder.early" in printed and "model.decoder.output" not in printed


@pytest.mark.parametrize("names", [("low", "middle", "high", "child"), ("d", "c", "b", "a")])
def test_a_table_has_the_registers_of_its_corpus_and_the_rows_of_its_speakers(
    corpus: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    settings = "model.speaker=table", "optimizer.steps=1", "optimizer.learning_rate=1e-9", "optimizer.weight_decay=0"
    initial = train(tmp_path, CONVERSION, corpus, *settings)
    measured = initial["ema"]["speaker.log_f0"].clone()
    for part, name in (("ema", "speaker"), ("learner", "model.speaker")):
        initial[part][f"{name}.log_f0"] = torch.full_like(measured, 9.0)  # of another corpus
        initial[part][f"{name}.rows"] = initial[part][f"{name}.rows"] + 1
    checkpoint.save(tmp_path / "initial.safetensors", initial)

    renamed = dict(zip(SPEAKERS, names))
    head, *lines = corpus.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    lines = ["\t".join([path, renamed[speaker], *others]) for path, speaker, *others in rows]
    other = corpus.with_name("renamed.tsv")
    other.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    (tmp_path / "on").mkdir()
    places = f"corpus.store={corpus.with_suffix('.store')}", f"start_from={tmp_path / 'initial.safetensors'}"
    after = train(tmp_path / "on", CONVERSION, other, *settings, *places)
    torch.testing.assert_close(after["ema"]["speaker.log_f0"].sort().values, measured.sort().values)
    same = torch.allclose(after["ema"]["speaker.rows"], initial["ema"]["speaker.rows"], atol=1e-4)
    assert same == (names == tuple(SPEAKERS))


def test_a_model_that_gets_deeper_is_what_it_was(corpus: Path, tmp_path: Path) -> None:
    initial = corpus.parent / "first" / "checkpoint.safetensors"
    before = load_conversion(initial)
    fine, coarse = before.config.content_blocks
    deeper = f"model.content_blocks=[{fine},{coarse + 1}]"
    overrides = f"start_from={initial}", "optimizer.steps=1", "optimizer.learning_rate=0", "optimizer.final_rate=0"
    train(tmp_path, CONVERSION, corpus, deeper, *overrides, "optimizer.weight_decay=0")
    after = load_conversion(tmp_path / "run" / "checkpoint.safetensors")
    mel = torch.randn(1, N_MELS, 32)
    assert len(after.content.coarse) == coarse + 1
    torch.testing.assert_close(after.content(mel), before.content(mel))
    (tmp_path / "on").mkdir()
    train(tmp_path / "on", CONVERSION, corpus, deeper, *overrides[:2])
    assert load_conversion(tmp_path / "on" / "run" / "checkpoint.safetensors").content.coarse[-1].scale.abs().max() > 0


def test_melodies_move_only_between_crops_with_voiced_frames() -> None:
    pitch = torch.tensor([[[-1.0, -0.5], [1, 1]], [[0.3, 0.5], [0, 0]], [[1.0, 9.0], [1, 0]]])
    expected = torch.tensor([[0.75, 1.25], [0.3, 0.5], [1.0, 9.0]])
    torch.testing.assert_close(moved_pitch(pitch)[:, 0], expected)


def test_vocoder_trains_on_predicted_mels(corpus: Path, tmp_path: Path) -> None:
    conversion = corpus.parent / "first" / "checkpoint.safetensors"
    settings = f"conversion={conversion}", "optimizer.steps=2"
    first = train(tmp_path, VOCODER, corpus, *settings)
    assert first["step"] == 2
    (kept,) = corpus.with_suffix(".store").glob("predicted-*.npy")
    made = kept.stat().st_mtime_ns
    (tmp_path / "again").mkdir()
    again = train(tmp_path / "again", VOCODER, corpus, *settings)
    assert kept.stat().st_mtime_ns == made  # read, not predicted anew
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged").mkdir()
    train(tmp_path / "damaged", VOCODER, corpus, *settings)
    assert kept.read_bytes() == whole
    assert all(value.equal(again["ema"][name]) for name, value in first["ema"].items())
    (tmp_path / "other").mkdir()
    train(tmp_path / "other", VOCODER, corpus, *settings, "seed=1")
    assert len(list(kept.parent.glob("predicted-*.npy"))) == 2


def test_predicted_mels_go_to_another_process_as_a_place(tmp_path: Path) -> None:
    mels = np.random.default_rng(0).standard_normal((300, N_MELS)).astype(np.float16)
    np.save(tmp_path / "mels.npy", mels)
    packed = pickle.dumps(PredictedMels(tmp_path / "mels.npy", [4, 7], [100, 200]))
    assert len(packed) < 2000  # no arrays
    found = pickle.loads(packed)
    assert list(found) == [4, 7] and 5 not in found
    np.testing.assert_array_equal(found[4], mels[:100])
    np.testing.assert_array_equal(found[7], mels[100:])


def test_a_run_is_never_overwritten(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    with pytest.raises(InputError, match="--resume"):
        train(tmp_path, VOCODER, corpus, "optimizer.steps=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.steps=1", "did you mean 'optimizer'"),
        ("task=singing", "expected conversion, vocoder, joint, encoders, robust_frontend"),
        ("corpus.manifest=/nowhere/manifest.tsv", "/nowhere/manifest.tsv"),
    ],
)
def test_bad_settings_are_named(corpus: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, CONVERSION, corpus, override)
    assert not (tmp_path / "run").exists()


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
    read = partial(learner.classifier, prototypes=learner.speaker_head.prototypes)
    z = torch.randn(8, 8, 40)
    speaker = torch.arange(8) % 2
    z += speaker.view(-1, 1, 1) * 2.0
    optimizer = torch.optim.Adam(learner.classifier.parameters(), 1e-2)
    loss = torch.tensor(1.0)
    while loss > 0.1:  # the classifier learns to read the offset, but not so well that no gradient is left
        loss = torch.nn.functional.cross_entropy(read(z), speaker)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z.requires_grad_(True)
    weigh(learner._adversary(z, speaker), config.losses).backward()
    with torch.no_grad():
        step = z.grad / z.grad.norm()
        after = torch.nn.functional.cross_entropy(read(z - step), speaker)
        before = torch.nn.functional.cross_entropy(read(z), speaker)
    assert after > before
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.classifier.output.parameters())


def labelled(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in five channels, [count, 5, 8], and a label that can be read off the last one."""
    label = torch.randint(2, (count,))
    x = 0.7 * torch.randn(count, 5, 8)
    x[:, 4] += 0.5 * (2.0 * label[:, None] - 1)
    return x, label


def probe(encoder: torch.nn.Module) -> float:
    """How often a classifier that is trained anew reads the label off the code of clips that it has not heard."""
    reader = CodeClassifier(4, 2, 16)
    optimizer = torch.optim.Adam(reader.parameters(), 1e-2)
    for _ in range(40):
        x, label = labelled(64)
        with torch.no_grad():
            code = encoder(x)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(reader(code), label).backward()
        optimizer.step()
    with torch.no_grad():
        x, label = labelled(1000)
        return (reader(encoder(x)).argmax(dim=1) == label).float().mean().item()


@pytest.mark.parametrize(
    ("kind", "weight", "low", "high"),
    [("off", 0.0, 0.9, 1.0), ("reversal", 1.0, 0.4, 0.65), ("alternating", 3.0, 0.4, 0.65)],
)
def test_the_adversary_takes_a_planted_label_out_of_the_code(kind: str, weight: float, low: float, high: float) -> None:
    """A code too narrow for all five channels keeps the loudest, the label's, unless the adversary has it go."""
    from vconv.config import build

    settings = {
        "model": {"channels": 8, "content_channels": 4, "bottleneck": {"kind": "identity"}},
        "losses": {"adversary": weight, "adversary_kind": kind, "adversary_label": "accent"},
    }
    torch.manual_seed(1)
    learner = Learner(build(ConversionTraining, settings), 4, 3, labels=2)
    encoder, decoder = torch.nn.Conv1d(5, 4, 1), torch.nn.Conv1d(4, 5, 1)
    learned = [*encoder.parameters(), *decoder.parameters(), *learner.classifier.parameters()]
    optimizer = torch.optim.Adam(learned, 1e-2, betas=(0.5, 0.98))
    for _ in range(150):
        x, label = labelled(64)
        code = encoder(x)
        loss = 4 * torch.nn.functional.mse_loss(decoder(code), x)
        if weight:
            known = torch.where(torch.rand(64) < 0.1, -1, label)
            loss = loss + weigh(learner._adversary(code, known), learner.weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert low < probe(encoder) <= high


def test_padding_in_the_store_is_whole_frames(corpus: Path) -> None:
    store = open_store(corpus.with_suffix(".store"))
    assert store.wave.shape == (len(store.f0), OUTPUT_HOP)
    assert store.mel.shape == (len(store.f0), N_MELS)


@pytest.mark.parametrize(
    ("text", "part", "prefix", "number"), [(CONVERSION, "learner", "model.", 0), (VOCODER, "vocoder", "", 1)]
)
def test_a_run_begins_with_a_model_folder(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, part: str, prefix: str, number: int
) -> None:
    """With weights as the folder rounds them; what only training has begins fresh, which one line says."""
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    conversion = load_conversion(corpus.parent / "first" / "checkpoint.safetensors")
    models = conversion, load_vocoder(tmp_path / "run" / "checkpoint.safetensors")
    (tmp_path / "model").mkdir()
    saved.save(tmp_path / "model", *map(saved.round_weights, models))
    record_digests(tmp_path / "model")
    shutil.rmtree(tmp_path / "run")
    capfd.readouterr()
    still = "optimizer.learning_rate=0", "optimizer.final_rate=0", "optimizer.weight_decay=0", "optimizer.steps=1"
    after = train(tmp_path, text, corpus, f"start_from={tmp_path / 'model'}", *still)[part]
    for name, value in models[number].named_parameters():
        torch.testing.assert_close(after[prefix + name], value, rtol=0, atol=0)
    told = [line for line in capfd.readouterr().out.splitlines() if "begin fresh" in line]
    assert len(told) == 1 and "discriminator" in told[0]
    assert ("speaker_head" in told[0]) == (part == "learner")
