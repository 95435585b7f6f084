"""Frame-level pseudo-labels: clustered, kept in the manifest, drawn with the crops, predicted from the code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_asr_encoder, make_corpus  # noqa: E402
from tests.test_recipes import RECIPES, script  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv.data.augmentation.mel import warp  # noqa: E402
from vconv.data.batches import BatchConfig, ConversionSampler  # noqa: E402
from vconv.data.corpus import load_corpus, parse_pseudo_labels  # noqa: E402
from vconv.data.manifest import Clip, read_manifest, write_manifest  # noqa: E402
from vconv.data.store import build, open_store  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import F0_REFERENCE  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with its feature store."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    build(read_manifest(manifest), manifest.with_suffix(".store"))
    return manifest


@pytest.fixture(scope="module")
def numbered(corpus: Path) -> Path:
    """The corpus with pseudo-labels that count the frames of the code."""
    store, clips = open_store(corpus.with_suffix(".store")), read_manifest(corpus)
    counts = {entry.path: (entry.frames + 1) // 2 for entry in store.entries}
    path = corpus.with_name("numbered.tsv")
    pseudo_labels = {clip.path: " ".join(map(str, range(counts[str(clip.path)]))) for clip in clips}
    write_manifest(
        path,
        [dataclasses.replace(c, extra=(("pseudo_labels", pseudo_labels[c.path]),)) for c in clips],
        ["pseudo_labels"],
    )
    return path


def sampler(manifest: Path, corpus: Path, **settings: object) -> ConversionSampler:
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(manifest))
    return ConversionSampler(training, BatchConfig(items=24, frames=32, reference_frames=(32, 48), **settings), 0)


def test_units_come_with_their_crop(corpus: Path, numbered: Path) -> None:
    drawn = sampler(numbered, corpus, parallel_share=0.0)
    batch = drawn.batch(0)
    assert batch.pseudo_labels.shape == (24, 16)
    store, items = drawn.corpus.store, drawn.corpus.items
    mels = [store.clip_mel(item.entry).astype(np.float32) for item in items]
    for clean, pseudo_labels in zip(batch.clean.mel, batch.pseudo_labels):
        np.testing.assert_array_equal(np.diff(pseudo_labels), 1)
        assert any(np.array_equal(mel[2 * pseudo_labels[0] :][:32].T, clean) for mel in mels)


def test_without_the_column_they_are_unknown(corpus: Path) -> None:
    drawn = sampler(corpus, corpus)
    assert drawn.corpus.pseudo_label_count == 0
    assert (drawn.batch(0).pseudo_labels == -1).all()


@pytest.mark.parametrize("text", ["1 2 x", "1 -2", "1.5 2", "99999999999"])
def test_what_is_no_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"clip.wav: column 'pseudo_labels': expected numbers"):
        parse_pseudo_labels(Clip(Path("clip.wav"), "a", extra=(("pseudo_labels", text),)))


def test_another_voice_is_heard_in_all_but_the_words(corpus: Path) -> None:
    """Formants and melody move together, in what is to be made as in the reference, and it is nobody's voice."""
    plain = sampler(corpus, corpus, parallel_perturb=0.0).corpus
    config = BatchConfig(
        items=24, frames=32, reference_frames=(32, 48), other_voice=0.5, other_octaves=0.3, parallel_perturb=0.0
    )
    batch = ConversionSampler(plain, config, 0).batch(0)
    moved = batch.speaker < 0
    assert 4 < moved.sum() < 20
    np.testing.assert_array_equal(batch.label, batch.speaker)
    mels = [plain.store.clip_mel(item.entry).astype(np.float32) for item in plain.items]
    f0s = [plain.store.clip_f0(item.entry) for item in plain.items]

    def place(wanted: np.ndarray, octaves: float) -> tuple[int, int] | None:
        for index, mel in enumerate(mels):
            there = warp(mel, 2**octaves) if octaves else mel
            for at in range(len(there) - 31):
                if np.allclose(there[at : at + 32].T, wanted, atol=1e-2):
                    return index, at
        return None

    assert all(place(clean, 0.0) for clean in batch.clean.mel[~moved])
    curve, voiced = batch.pitch[moved][0]
    assert place(batch.clean.mel[moved][0], 0.0) is None
    # The melody says by how much: moved by as much, a clip is what is heard.
    heard = voiced > 0
    for f0 in f0s:
        for at in range(len(f0) - 31):
            here = f0[at : at + 32]
            if np.array_equal(here > 0, heard) and heard.any():
                octaves = curve[heard] - np.log2(here[heard] / F0_REFERENCE)
                if np.ptp(octaves) < 1e-4 and place(batch.clean.mel[moved][0], float(octaves.mean())):
                    return
    pytest.fail("no clip, moved as its melody is, is what is heard")


def test_the_encoder_learns_them_alone(corpus: Path, numbered: Path, tmp_path: Path) -> None:
    """Phones of the vowels in a row: each unit is a vowel, which is easy to hear, and the decoder stays as it was."""
    store, clips = open_store(corpus.with_suffix(".store")), read_manifest(corpus)
    frames = {entry.path: entry.frames for entry in store.entries}
    vowels = sorted({phone for clip in clips for phone in clip.phones})

    def pseudo_labels(clip: Clip) -> str:
        count = (frames[str(clip.path)] + 1) // 2
        places = np.minimum(np.arange(count) * len(clip.phones) // count, len(clip.phones) - 1)
        return " ".join(str(vowels.index(clip.phones[p])) for p in places)

    manifest = tmp_path / "vowels.tsv"
    write_manifest(
        manifest,
        [dataclasses.replace(c, extra=(("pseudo_labels", pseudo_labels(c)),)) for c in clips],
        ["pseudo_labels"],
    )
    alone = ["losses.reconstruction=0", "losses.cycle=0", "losses.realism=0", "losses.pseudo_labels=1"]
    setting = [f"corpus.store={corpus.with_suffix('.store')}", *alone]
    untrained = train(tmp_path, CONVERSION, manifest, *setting, "optimizer.steps=1")["learner"]
    (tmp_path / "run").rename(tmp_path / "first")
    state = train(tmp_path, CONVERSION, manifest, *setting, "optimizer.steps=120")
    found = scalars(tmp_path, "pseudo_labels")
    assert found[-1] < 0.6 * found[0] < 0.6 * 2 * np.log(len(vowels))
    same = {name: torch.equal(value, untrained[name]) for name, value in state["learner"].items()}
    assert all(equal for name, equal in same.items() if name.startswith("model.decoder"))
    assert not all(equal for name, equal in same.items() if name.startswith("model.content"))


def test_to_learn_units_takes_units(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"losses.pseudo_labels: .*has no column 'pseudo_labels'"):
        train(tmp_path, CONVERSION, corpus, "losses.pseudo_labels=1", "optimizer.steps=1")


def test_a_table_has_no_other_voices(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch.other_voice: a table"):
        train(tmp_path, CONVERSION, corpus, "batch.other_voice=0.5", "model.speaker=table")


def test_units_lie_on_the_frames_of_the_code(corpus: Path, tmp_path: Path) -> None:
    """Of an ASR encoder that hears loudness, two clusters are speech and gaps, where these are in the mel."""
    pytest.importorskip("sklearn")
    out = tmp_path / "pseudo_labels.tsv"
    model = make_asr_encoder(tmp_path / "asr_encoder.onnx")
    main = script(RECIPES / "base" / "pseudo_labels.py").main
    assert main([str(corpus), "-o", str(out), "--asr-encoder", str(model), "--clusters", "2"]) == 0
    opened = open_store(corpus.with_suffix(".store"))
    store = {entry.path: entry for entry in opened.entries}
    assert [clip.path for clip in read_manifest(out)] == [clip.path for clip in read_manifest(corpus)]
    contrast = dict.fromkeys((-2, 0, 2), 0.0)
    for clip in read_manifest(out):
        pseudo_labels, mel = parse_pseudo_labels(clip), opened.clip_mel(store[str(clip.path)]).astype(np.float32)
        assert len(pseudo_labels) == (len(mel) + 1) // 2
        loud = np.exp(2 * mel[: len(mel) // 2 * 2]).sum(axis=1).reshape(-1, 2).mean(axis=1)
        for shift in contrast:
            heard = np.roll(pseudo_labels[: len(loud)], shift)
            contrast[shift] += abs(np.log(loud[heard == 0].mean() / loud[heard == 1].mean()))
    assert contrast[0] > 1.5 * max(contrast[-2], contrast[2])


def test_a_recognizer_that_is_none_is_refused(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.onnx").write_text("no model")
    main = script(RECIPES / "base" / "pseudo_labels.py").main
    arguments = [str(corpus), "-o", str(tmp_path / "o.tsv"), "--asr-encoder", str(tmp_path / "none.onnx")]
    assert main(arguments) == 2
    assert "is not a working ONNX graph" in capsys.readouterr().err
    assert not (tmp_path / "o.tsv").exists()
    assert main([*arguments[:2], str(tmp_path / "missing" / "o.tsv"), *arguments[3:]]) == 2
    assert "no such folder" in capsys.readouterr().err
