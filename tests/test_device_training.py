"""Batches whose features are made on the training device: those of the CPU, and a model learns from them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_corpus, make_speaker_encoder  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.benchmarks.input import rows  # noqa: E402
from vconv.data.augmentation.mel import PerturbConfig  # noqa: E402
from vconv.data.augmentation.recording import DisturbConfig  # noqa: E402
from vconv.data.batches import BatchConfig, ConversionBatch, ConversionSampler  # noqa: E402
from vconv.data.corpus import Corpus, load_corpus  # noqa: E402
from vconv.data.decoded import Decoded  # noqa: E402
from vconv.data.device.features import CONTEXT_FRAMES  # noqa: E402
from vconv.data.device.sampler import DeviceSampler  # noqa: E402
from vconv.data.device.waves import draw_surroundings  # noqa: E402
from vconv.data.manifest import prepare, read_manifest  # noqa: E402
from vconv.data.shards import Sample, stream, write_shards  # noqa: E402
from vconv.data.shards.store import ShardStore  # noqa: E402
from vconv.data.store import WAVE_SCALE, build, open_store  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import HOP_LENGTH, N_MELS, OUTPUT_RATE, SAMPLE_RATE, log_mel  # noqa: E402
from vconv.models.pretrained.campplus import load_campplus  # noqa: E402
from vconv.training.device_batches import DeviceFeatures, device_input  # noqa: E402
from vconv.training.loader import to_tensors  # noqa: E402
from vconv.training.shard_stream import ShardStream  # noqa: E402

NEVER = PerturbConfig(warp=0, equalizer=0, blur=0, noise=0, reverb=0, band_limit=0)
PLAIN = BatchConfig(
    items=6, frames=32, reference_frames=(32, 48), phone_items=2, perturb=NEVER, disturbed_share=0, asr_dropout=0
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = make_corpus(tmp_path_factory.mktemp("corpus"))
    prepare(table, table.with_name("corpus.tsv"), layout="tsv", jobs=1)
    build(read_manifest(table.with_name("corpus.tsv")), table.with_name("corpus.store"))
    write_shards(table.with_name("corpus.tsv"), table.with_name("shards"), minutes=0.2)
    return table.with_name("corpus.tsv")


@pytest.fixture(scope="module")
def corpus(manifest: Path) -> Corpus:
    store = Decoded(open_store(manifest.with_suffix(".store")))
    return load_corpus(store, read_manifest(manifest))[0]


def batch_of(
    corpus: Corpus, config: BatchConfig, step: int = 0, speaker_encoder: str = ""
) -> ConversionBatch[torch.Tensor]:
    sampler, features = device_input(corpus, config, 3, "", speaker_encoder, CPU)
    torch.manual_seed(step)
    return features(to_tensors(sampler.batch(step), CPU))


def tensors(batch: tuple) -> list[torch.Tensor]:
    """All of a batch, in order."""
    found = ([value] if isinstance(value, torch.Tensor) else tensors(value or ()) for value in batch)
    return list(itertools.chain.from_iterable(found))


def test_shards_hold_the_corpus_of_the_manifest(manifest: Path, corpus: Corpus) -> None:
    shards = ShardStore(manifest.with_name("shards"))
    own, _ = load_corpus(Decoded(shards), shards.clips)
    assert (own.speakers, own.phone_set, len(own.items)) == (corpus.speakers, corpus.phone_set, len(corpus.items))
    clips = read_manifest(manifest)
    by_path = {item.entry.path: item for item in corpus.items}
    for item in own.items:
        other = by_path[str(clips[int(item.entry.path.partition("/")[2])].path)]
        assert dataclasses.replace(item, entry=None) == dataclasses.replace(other, entry=None)
        assert item.entry.frames == other.entry.frames
        np.testing.assert_array_equal(own.store.clip_wave(item.entry), corpus.store.clip_wave(other.entry))
        np.testing.assert_array_equal(own.store.clip_f0(item.entry), corpus.store.clip_f0(other.entry))


def test_a_batch_without_augmentation_has_the_features_of_the_cpu(corpus: Corpus) -> None:
    """Each crop is found in the mel that the CPU makes of its clip's decoded audio."""
    wide = [corpus.store.clip_wave(item.entry).reshape(-1) / np.float32(WAVE_SCALE) for item in corpus.items]
    whole = [log_mel(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE)).T for wave in wide]
    for step in range(2):
        batch = batch_of(corpus, PLAIN, step)
        assert batch.source.mel.shape == batch.clean.mel.shape == (6, N_MELS, 32)
        assert batch.source.asr_features is batch.speaker_embedding is None
        for mel in (*batch.source.mel, *batch.clean.mel):
            crop = mel.T.numpy()
            distances = [
                np.abs(w[at : at + 32] - crop).max() for w in whole for at in range(0, len(w) - 31, 2) if len(w) >= 32
            ]
            assert min(distances) < 1e-4
        for mel, frames in zip(batch.phone_clips.speech.mel, batch.phone_clips.frames):
            same = [w[:frames] for w in whole if len(w) // 2 * 2 == frames]
            assert min(np.abs(w - mel.T.numpy()[:frames]).max() for w in same) < 1e-4


def test_pairs_and_labels_are_those_of_the_sampler(corpus: Corpus) -> None:
    """Without augmentation both samplers draw the same clips."""
    a, b = DeviceSampler(corpus, PLAIN, 3), ConversionSampler(corpus, PLAIN, 3)
    one, other = a.batch(0), b.batch(0)
    np.testing.assert_array_equal(one.speaker, other.speaker)
    np.testing.assert_array_equal(one.label, other.label)
    assert one.pitch.shape == other.pitch.shape and one.pseudo_labels.shape == other.pseudo_labels.shape


def test_batches_depend_on_seed_step_and_rank_only(corpus: Corpus) -> None:
    config = BatchConfig(
        items=6, frames=32, reference_frames=(32, 48), phone_items=2, other_voice=0.5, false_voicing=0.5
    )
    a, b = (DeviceSampler(corpus, config, seed=3) for _ in range(2))
    b.batch(0)
    np.testing.assert_equal(a.batch(5), b.batch(5))
    assert not np.array_equal(a.batch(5).source.wave, a.batch(5, rank=1).source.wave)
    one, other = batch_of(corpus, config, 5), batch_of(corpus, config, 5)
    for value, again in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(again, value, rtol=0, atol=0)
        assert torch.isfinite(value.float()).all()


def test_moved_sources_stay_aligned(corpus: Corpus) -> None:
    """Faster and slower speech is read at the places of the clean one: as loud and as quiet at the same frames."""
    config = dataclasses.replace(PLAIN, disturbed_share=1.0, parallel_perturb=1.0, phone_items=0)
    sampler, features = device_input(corpus, config, 3, "", "", CPU)
    drawn = sampler.batch(0)
    quiet = draw_surroundings(np.random.default_rng(0), 6, DisturbConfig(clean=1.0))
    drawn = drawn._replace(source=drawn.clean, disturbances=drawn.disturbances._replace(surround=quiet))
    batch = features(to_tensors(drawn, CPU))
    assert len(drawn.disturbances.moved) == 6 and np.abs(np.log2(drawn.disturbances.rate)).max() > 0.1
    assert (batch.source.mel - batch.clean.mel).abs().mean() > 0.1
    for source, clean in zip(batch.source.mel.mean(dim=1), batch.clean.mel.mean(dim=1)):
        likeness = [np.corrcoef(source[4 + lag : 28 + lag], clean[4:28])[0, 1] for lag in range(-4, 5)]
        assert abs(np.argmax(likeness) - 4) <= 1 and max(likeness) > 0.7


def test_the_speaker_embedding_is_that_of_the_reference(corpus: Corpus, tmp_path: Path) -> None:
    encoder = make_speaker_encoder(tmp_path / "speaker_encoder.safetensors")
    config = dataclasses.replace(PLAIN, other_voice=0.5)
    drawn = DeviceSampler(corpus, config, 3).batch(0)
    waves = [audio.resample(wave / np.float32(WAVE_SCALE), OUTPUT_RATE, SAMPLE_RATE) for wave in drawn.reference]
    inner = np.stack(waves)[:, CONTEXT_FRAMES * HOP_LENGTH : -CONTEXT_FRAMES * HOP_LENGTH]
    inner = inner[:, : int(inner.shape[1] / 2**config.other_octaves)]  # as much as the highest voice has
    with torch.no_grad():
        expected = load_campplus(encoder)(torch.from_numpy(inner))
    found = batch_of(corpus, config, speaker_encoder=str(encoder)).speaker_embedding
    distances = (found - expected).norm(dim=1)
    moved = torch.from_numpy(drawn.octaves) != 0
    assert 0 < moved.sum() < len(moved)
    assert distances[~moved].max() < 1e-4 and distances[moved].min() > 0.05


@pytest.mark.parametrize("place", ["shards", pytest.param("store", marks=pytest.mark.slow)])
def test_a_model_learns_from_features_made_on_the_device(manifest: Path, tmp_path: Path, place: str) -> None:
    steps = 20 if place == "store" else 2
    settings = ["corpus.features=device", f"optimizer.steps={steps}", "log.every=5", "batch.disturbed_share=0.3"]
    if place == "shards":
        settings += [f"corpus.shards={manifest.with_name('shards')}", "log.every=1", "log.validate_every=2"]
    train(tmp_path, CONVERSION, manifest, *settings)
    losses = scalars(tmp_path, "reconstruction")
    assert losses[-1] < (0.9 if place == "store" else 1.0) * losses[0]
    assert np.isfinite(scalars(tmp_path, "validation")).all()


def test_shards_without_a_finished_index_are_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished shards"):
        train(tmp_path, CONVERSION, manifest, f"corpus.shards={tmp_path}")


def test_device_features_without_phones(corpus: Corpus) -> None:
    batch = batch_of(corpus, dataclasses.replace(PLAIN, phone_items=0))
    assert batch.phone_clips is None
    assert DeviceFeatures(4, 0.0).asr_encoder is None


def frames_of(sample: Sample) -> tuple[str, int]:
    return sample.key, len(sample.steps())


def test_workers_divide_the_shards(manifest: Path) -> None:
    folder = manifest.with_name("shards")
    everything = dict(map(frames_of, stream(folder, epochs=1)))
    found = []
    for rank in range(2):
        stream_of = ShardStream(folder, frames_of, epochs=1, rank=rank, ranks=2)
        found += torch.utils.data.DataLoader(stream_of, batch_size=None, num_workers=1)
    assert len(found) == len(everything) and dict(found) == everything
    with pytest.raises(InputError, match="readers; use fewer workers"):
        list(ShardStream(folder, frames_of, ranks=50))


def test_the_benchmark_of_input_counts_clips(manifest: Path) -> None:
    printed = list(rows(manifest.with_name("shards"), [0], 4, "", dataclasses.replace(PLAIN, items=2, phone_items=0)))
    assert len(printed) == 3
    assert all(float(cell) > 0 for cell in printed[2].split("|")[2:-1])
