"""vconv embed --each: a row for each clip or speaker, the same as embedding them one by one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import vconv
from tests.conftest import Cli, speech
from vconv import audio
from vconv.benchmarks import embeddings
from vconv.errors import InputError
from vconv.voices import corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with two clips each, of different lengths."""
    root = tmp_path_factory.mktemp("clips")
    for speaker, pitch in (("anna", 210.0), ("bert", 110.0)):
        (root / speaker).mkdir()
        for number, seconds in enumerate((1.0, 1.6)):
            audio.write(root / speaker / f"{number}.wav", speech(seconds, 16000, pitch, number), 16000)
    return root


def test_each_row_is_the_embedding_of_its_clip(folders: Path, tmp_path: Path) -> None:
    done = vconv.embed_corpus([folders], tmp_path / "all.npz")
    converter = vconv.load()
    with np.load(tmp_path / "all.npz", allow_pickle=False) as rows:
        assert list(rows["speaker"]) == ["anna", "anna", "bert", "bert"]
        assert done.rows == len(rows["path"]) == 4 and not done.errors
        assert np.isclose(done.seconds, rows["seconds"].sum())
        for path, vector in zip(rows["path"], rows["vector"]):
            np.testing.assert_allclose(vector, converter.embed(str(path)), atol=1e-6)


def test_a_speaker_is_what_embed_makes_of_its_clips(vconv_cli: Cli, folders: Path, tmp_path: Path) -> None:
    done = vconv_cli("embed", "--each", folders, "-o", tmp_path / "speakers.npz", "--by", "speaker")
    assert done.code == 0 and "2 rows" in done.out
    with np.load(tmp_path / "speakers.npz") as rows:
        assert list(rows["speaker"]) == ["anna", "bert"] and set(rows["path"]) == {""}
        for name, vector in zip(rows["speaker"], rows["vector"]):
            np.testing.assert_allclose(vector, vconv.load().embed(folders / str(name)), atol=1e-3)


def test_manifests_and_two_processes_give_the_same(folders: Path, tmp_path: Path) -> None:
    clips = sorted(folders.rglob("*.wav"))
    lines = ["path\tspeaker", *(f"{clip}\tsomebody" for clip in clips)]
    (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    vconv.embed_corpus([folders], tmp_path / "one.npz")
    vconv.embed_corpus([tmp_path / "corpus.tsv"], tmp_path / "two.npz", jobs=2)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert set(two["speaker"]) == {"somebody"}
        np.testing.assert_array_equal(one["path"], two["path"])
        np.testing.assert_allclose(one["vector"], two["vector"], atol=1e-6)


def test_a_bad_clip_is_told_and_left_out(vconv_cli: Cli, folders: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    done = vconv_cli("embed", "--each", folders / "anna", bad, "-o", tmp_path / "some.npz")
    assert done.code == InputError.exit_code and "bad.wav" in done.err and len(done.err.splitlines()) == 1
    with np.load(tmp_path / "some.npz") as rows:
        assert len(rows["path"]) == 2
    done = vconv_cli("embed", "--each", bad, "-o", tmp_path / "none.npz")
    assert done.code == InputError.exit_code
    assert not (tmp_path / "none.npz").exists()


def test_an_interrupted_run_goes_on(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_CLIPS", 1)
    real, seen = corpus._embedded, []

    def stops(item: corpus.Item, **options: object) -> object:
        seen.append(item.path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(item, **options)

    monkeypatch.setattr(corpus, "_embedded", stops)
    output = tmp_path / "all.npz"
    with pytest.raises(KeyboardInterrupt):
        vconv.embed_corpus([folders], output)
    assert not output.exists()
    vconv.embed_corpus([folders], output)
    assert len(seen) == 5 and seen[2] == seen[3]  # the first two were not embedded again
    with np.load(output) as rows:
        assert len(rows["path"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["all.npz"]


def test_what_failed_is_tried_again(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PART_CLIPS", 1)
    bad, output, real = tmp_path / "bad.wav", tmp_path / "all.npz", corpus._embedded
    bad.write_text("no sound")
    with pytest.raises(InputError, match="no clip could be embedded"):
        vconv.embed_corpus([bad], output)
    assert list(tmp_path.iterdir()) == [bad]

    def stops(item: corpus.Item, **options: object) -> object:
        if item.path != str(bad):
            raise KeyboardInterrupt
        return real(item, **options)

    monkeypatch.setattr(corpus, "_embedded", stops)
    with pytest.raises(KeyboardInterrupt):
        vconv.embed_corpus([bad, folders], output)
    monkeypatch.setattr(corpus, "_embedded", real)
    shutil.copy(folders / "anna" / "0.wav", bad)
    done = vconv.embed_corpus([bad, folders], output)
    assert done.rows == 5 and not done.errors


def test_parquet_holds_the_same(folders: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    vconv.embed_corpus([folders], tmp_path / "all.parquet")
    vconv.embed_corpus([folders], tmp_path / "all.npz")
    table = parquet.read_table(tmp_path / "all.parquet").to_pydict()
    with np.load(tmp_path / "all.npz") as rows:
        assert table["path"] == list(rows["path"])
        np.testing.assert_array_equal(np.array(table["vector"], np.float32), rows["vector"])


def test_standard_input_is_read_in_this_process(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [folders / "anna" / f"{number}.wav" for number in range(2)]
    with clips[0].open() as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        done = vconv.embed_corpus(["-", clips[1]], tmp_path / "all.npz", jobs=2)
    assert done.rows == 2 and not done.errors
    with pytest.raises(InputError, match="is given twice"):
        vconv.embed_corpus(["-", "-"], tmp_path / "twice.npz")


def test_the_output_must_have_a_suffix_that_is_known(vconv_cli: Cli, folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.npz or \.parquet"):
        vconv.embed_corpus([folders], tmp_path / "all.csv")
    assert "needs -o" in vconv_cli("embed", "--each", folders).err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--each", "--me", "me.npz"), "choose one"),
        (("--by", "speaker"), "--by and --jobs are for --each"),
        (("--jobs", "2", "--me", "me.npz"), "--by and --jobs are for --each"),
        (("--each", "--threads", "1", "-o", "all.npz"), "leave out --threads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_without_effect_are_refused(vconv_cli: Cli, folders: Path, options: tuple[str, ...], said: str) -> None:
    done = vconv_cli("embed", folders, *options)
    assert done.code == InputError.exit_code and said in done.error


def test_the_benchmark_compares_with_the_speaker_encoder_alone(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings.benchmark([folders], count=8, jobs="1", model=None)
    printed = capsys.readouterr().out
    rates = [float(line.split("|")[2]) for line in printed.splitlines() if line.startswith(("| speaker", "| `vconv"))]
    assert len(rates) == 2 and min(rates) > 0
    assert float(printed.split()[-1]) < 1e-6
