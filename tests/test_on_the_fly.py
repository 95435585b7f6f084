"""Features made on the fly are those of a store, a cache is only ever whole, and batches made ahead are the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import RATE, make_corpus, speak  # noqa: E402
from tests.test_cli import files_in  # noqa: E402
from tests.test_training import CONVERSION, EVERYTHING, VOCODER, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.data import on_the_fly as live  # noqa: E402
from vconv.data.corpus import load_corpus  # noqa: E402
from vconv.data.manifest import prepare, read_manifest  # noqa: E402
from vconv.data.on_the_fly import OnTheFly  # noqa: E402
from vconv.data.store import build, open_store  # noqa: E402
from vconv.data.wave_batches import WaveBatchConfig, WaveSampler  # noqa: E402
from vconv.errors import InputError  # noqa: E402

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

# In warm-up the rate does not depend on where the run ends, so that a run can be ended early.
FEW = ("optimizer.warmup=100", "log.save_every=100", "log.validate_every=100")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with lengths, whose clips are all parallel."""
    table = make_corpus(tmp_path_factory.mktemp("corpus"))
    prepare(table, table.with_name("corpus.tsv"), layout="tsv", jobs=1)
    return table.with_name("corpus.tsv")


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """Clips of two speakers with silence around them, which is trimmed."""
    rng = np.random.default_rng(0)
    for number in range(6):
        speaker = ("low", "high")[number % 2]
        wave = speak("aiueo", 120 + 80 * (number % 2), 1.0 + 0.15 * (number % 2), number)
        wave = np.pad(wave, rng.integers(RATE // 4, RATE, 2)) + 1e-5 * rng.standard_normal(1).astype(np.float32)
        (tmp_path / "speakers" / speaker).mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / "speakers" / speaker / f"{number}.wav", wave, RATE)
    prepare(tmp_path / "speakers", tmp_path / "corpus.tsv", valid_percent=0, jobs=1)
    return tmp_path / "corpus.tsv"


def assert_same(one: dict, other: dict, part: str) -> None:
    for name, value in one[part].items():
        torch.testing.assert_close(other[part][name], value, rtol=0, atol=1e-6)


def test_live_features_are_those_of_a_store(padded: Path, tmp_path: Path) -> None:
    clips = read_manifest(padded)
    assert build(clips, tmp_path / "store") == []
    store, made = open_store(tmp_path / "store"), OnTheFly(clips)
    assert made.clip_asr_features(made.entries[0]) is store.clip_asr_features(store.entries[0]) is None
    assert [entry.path for entry in made.entries] == [entry.path for entry in store.entries]
    for ours, theirs in zip(made.entries, store.entries):
        assert ours.frames > theirs.frames + 20  # silence is not known before the audio is read
        for name in ("clip_mel", "clip_f0", "clip_wave"):
            np.testing.assert_array_equal(getattr(made, name)(ours), getattr(store, name)(theirs))


def test_parallel_clips_stay_aligned(corpus: Path) -> None:
    made = OnTheFly(read_manifest(corpus))
    training, _ = load_corpus(made, read_manifest(corpus))
    for members in training.by_group.values():
        lengths = {len(made.clip_mel(training.items[i].entry)) for i in members}
        assert lengths == {training.items[members[0]].entry.frames}


def test_a_cache_keeps_whole_files_and_is_used(padded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, cache = read_manifest(padded), tmp_path / "cache"
    first = OnTheFly(clips, cache)
    mels = [first.clip_mel(entry) for entry in first.entries]
    assert len(files_in(cache)) == len(clips)
    assert all(name.endswith(".npz") for name in files_in(cache))
    live._sound.cache_clear()
    monkeypatch.setattr(live, "read_sound", lambda *_: pytest.fail("read again"))
    second = OnTheFly(clips, cache)
    for entry, mel in zip(second.entries, mels):
        np.testing.assert_array_equal(second.clip_mel(entry), mel)
        assert len(second.clip_wave(entry)) == len(second.clip_f0(entry)) == len(mel)
    monkeypatch.undo()
    # A damaged file is made again; a clip that has changed gets a new one.
    for path in cache.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    audio.write(clips[0].path, speak("uuuaaa", 150, 1.0), RATE)
    live._sound.cache_clear()
    third = OnTheFly(clips, cache)
    np.testing.assert_array_equal(third.clip_mel(third.entries[1]), mels[1])
    assert not np.array_equal(third.clip_mel(third.entries[0]), mels[0])


def test_a_clip_gone_bad_is_told_once_and_stops_nothing(
    padded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = read_manifest(padded)
    clips[0].path.write_text("no audio")
    clips[1].path.unlink()
    made = OnTheFly(clips, tmp_path / "cache")
    for _ in range(2):
        for entry in made.entries[:2]:
            assert len(made.clip_mel(entry)) == len(made.clip_f0(entry)) == len(made.clip_wave(entry)) == 32
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(line.startswith("vconv: left out: ") for line in told)
    assert not files_in(tmp_path / "cache")  # they may be whole again tomorrow
    training, _ = load_corpus(made, clips)
    sampler = WaveSampler(training, WaveBatchConfig(items=40, frames=24, context_frames=8), 0)
    assert np.isfinite(sampler.batch(0).wave).all()  # also of clips shorter than a crop


def test_the_length_must_be_known(padded: Path) -> None:
    clips = [replace(clip, seconds=None) for clip in read_manifest(padded)]
    with pytest.raises(InputError, match="vconv prepare"):
        OnTheFly(clips)


@pytest.mark.parametrize(
    ("text", "part", "extra"),
    [(CONVERSION, "learner", EVERYTHING), (VOCODER, "vocoder", ("losses.adversarial_from=2",))],
    ids=["conversion", "vocoder"],
)
def test_training_is_the_same_from_a_store_live_and_made_ahead(
    corpus: Path, tmp_path: Path, text: str, part: str, extra: tuple[str, ...]
) -> None:
    runs = {}
    for name, settings in (
        ("store", ()),
        ("ahead", ("corpus.workers=1",)),
        ("on_the_fly", ("corpus.features=on_the_fly", f"corpus.cache={tmp_path / 'cache'}", "corpus.workers=2")),
    ):
        (tmp_path / name).mkdir()
        runs[name] = train(tmp_path / name, text, corpus, *FEW, "optimizer.steps=4", *extra, *settings)
    assert_same(runs["store"], runs["ahead"], part)
    assert_same(runs["store"], runs["on_the_fly"], part)
    assert files_in(tmp_path / "cache")
    # Resumed in the middle, with another number of workers.
    (tmp_path / "parts").mkdir()
    some = (*FEW, *extra, "corpus.features=on_the_fly")
    assert train(tmp_path / "parts", text, corpus, *some, "optimizer.steps=2", "corpus.workers=1")["step"] == 2
    assert_same(runs["store"], train(tmp_path / "parts", text, corpus, *some, "optimizer.steps=4", resume=True), part)


def test_live_training_needs_no_store_and_says_what_does(padded: Path, tmp_path: Path) -> None:
    state = train(tmp_path, VOCODER, padded, "corpus.features=on_the_fly", "optimizer.steps=2")
    assert state["step"] == 2
    assert not padded.with_suffix(".store").exists()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match=r"corpus\.features to store"):
        train(tmp_path, VOCODER, padded, "corpus.features=on_the_fly", "conversion=any.safetensors")
