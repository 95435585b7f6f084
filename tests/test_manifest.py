"""Manifests: reading, writing, preparing a corpus, the validation split and phones."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vconv.data import manifest
from vconv.data.manifest import TRAIN, VALID, Clip, prepare, read_manifest, split_clips, write_manifest
from vconv.errors import InputError

RATE = 16000


def make_clip(path: Path, seconds: float = 1.0, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(round(seconds * 1000))
    soundfile.write(path, level * rng.standard_normal(round(seconds * RATE)), RATE)
    return path


# ---------------------------------------------------------------- reading and writing


def test_what_is_written_is_read(tmp_path: Path) -> None:
    clips = [
        Clip(tmp_path / "a" / "1.wav", "anna", 1.5, 'said "so"', "sˈoʊ", "g1", "en-us", "f", 24000, VALID),
        Clip(Path("/elsewhere/2.flac"), "ben"),
    ]
    write_manifest(tmp_path / "corpus.tsv", clips)
    assert read_manifest(tmp_path / "corpus.tsv") == clips


def test_a_corpus_can_be_moved_with_its_manifest(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    write_manifest(old / "corpus.tsv", [Clip(old / "a" / "1.wav", "anna")])
    old.rename(new)
    assert read_manifest(new / "corpus.tsv")[0].path == new / "a" / "1.wav"


def test_paths_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest("corpus.tsv", [Clip(Path("a/1.wav"), "anna")])
    assert (tmp_path / "corpus.tsv").read_text().splitlines()[1].startswith("a/1.wav\tanna")
    assert read_manifest("corpus.tsv")[0].path == Path("a/1.wav")


def test_tables_of_other_programs(tmp_path: Path) -> None:
    """A byte-order mark, Windows line ends, blank lines, other columns in another order, quotes."""
    table = tmp_path / "corpus.tsv"
    table.write_bytes('\ufeffspeaker\tmood\tpath\ttranscript\r\nanna\tgood\t1.wav\t"Well\r\n\r\n'.encode())
    assert read_manifest(table) == [Clip(tmp_path / "1.wav", "anna", transcript='"Well', extra=(("mood", "good"),))]


def test_what_any_column_says(tmp_path: Path) -> None:
    clips = [
        Clip(tmp_path / "1.wav", "anna", 1.5, sex="f", extra=(("accent", "Irish"),)),
        Clip(tmp_path / "2.wav", "ben", sample_rate=24000, extra=(("mood", "good"),)),
    ]
    columns = ("speaker", "seconds", "sex", "sample_rate", "accent", "mood", "nothing")
    assert [clips[0].text(column) for column in columns] == ["anna", "1.500", "f", "", "Irish", "", ""]
    assert [clips[1].text(column) for column in columns] == ["ben", "", "", "24000", "", "good", ""]
    write_manifest(tmp_path / "corpus.tsv", clips, ("accent", "mood"))
    assert (tmp_path / "corpus.tsv").read_text().splitlines()[0].endswith("\tsplit\taccent\tmood")
    assert read_manifest(tmp_path / "corpus.tsv") == clips
    write_manifest(tmp_path / "corpus.tsv", clips)
    assert [clip.extra for clip in read_manifest(tmp_path / "corpus.tsv")] == [(), ()]
    with pytest.raises(InputError, match="tab or a line break"):
        write_manifest(tmp_path / "corpus.tsv", [Clip(tmp_path / "1.wav", "anna", extra=(("mood", "a\tb"),))])


def test_other_columns_of_a_table_stay(tmp_path: Path) -> None:
    for number in (1, 2):
        make_clip(tmp_path / f"{number}.wav")
    (tmp_path / "a.tsv").write_text("path\twho\taccent\n1.wav\tanna\tIrish\n")
    (tmp_path / "b.tsv").write_text("path\twho\tmood\n2.wav\tben\tgood\n")
    prepare([tmp_path / "a.tsv", tmp_path / "b.tsv"], tmp_path / "c.tsv", layout="tsv", columns={"speaker": "who"})
    first, second = read_manifest(tmp_path / "c.tsv")
    assert (first.speaker, first.extra) == ("anna", (("accent", "Irish"),))
    assert (second.speaker, second.extra) == ("ben", (("mood", "good"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\n1.wav\n", "line 1: no column 'speaker'"),
        ("path\tspeaker\tpath\n", "line 1: the column 'path' occurs twice"),
        ("path\tspeaker\n1.wav\tanna\n2.wav\n", "line 3: 1 values, but the header names 2 columns"),
        ("path\tspeaker\n1.wav\t \n", "line 2: column 'speaker': is empty"),
        ("path\tspeaker\tseconds\n1.wav\tanna\tlong\n", "line 2: column 'seconds': 'long' is not a positive number"),
        ("path\tspeaker\tseconds\n1.wav\tanna\tnan\n", "line 2: column 'seconds': 'nan' is not a positive number"),
        ("path\tspeaker\tsample_rate\n1.wav\tanna\t-1\n", "line 2: column 'sample_rate': '-1' is not a positive"),
        (
            "path\tspeaker\tsplit\n1.wav\tanna\tdev\n",
            "line 2: column 'split': 'dev' is no split; use train",
        ),
        ("", "line 1: no column 'path'"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (None, "no such file"),
    ],
)
def test_a_bad_manifest_is_told_with_its_line_and_column(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    table = tmp_path / "corpus.tsv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_manifest(table)
    assert message in str(caught.value)
    assert str(table) in str(caught.value)


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    table = tmp_path / "corpus.tsv"
    write_manifest(table, [Clip(tmp_path / "1.wav", "anna")])
    before = table.read_bytes()
    with pytest.raises(InputError, match="tab or a line break"):
        write_manifest(table, [Clip(tmp_path / "1.wav", "anna"), Clip(tmp_path / "2\t.wav", "ben")])
    with pytest.raises(InputError, match="cannot be written"):
        write_manifest(tmp_path / "no" / "corpus.tsv", [])
    assert table.read_bytes() == before
    assert list(tmp_path.iterdir()) == [table]


# ---------------------------------------------------------------- preparing a corpus


def test_folders_of_speakers(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    make_clip(corpus / "anna" / "1.wav", 1.25)
    make_clip(corpus / "anna" / "chapter" / "2.flac")
    make_clip(corpus / "ben" / "1.wav")
    (corpus / "anna" / "1.txt").write_text("Good\n morning ", encoding="utf-8")
    done, told = [], []
    prepare(corpus, tmp_path / "corpus.tsv", language="en", tell=told.append, report=done.append)
    clips = read_manifest(tmp_path / "corpus.tsv")
    assert [(c.speaker, c.seconds, c.transcript, c.language, c.sample_rate) for c in clips] == [
        ("anna", 1.25, "Good morning", "en", RATE),
        ("anna", 1.0, "", "en", RATE),
        ("ben", 1.0, "", "en", RATE),
    ]
    assert {c.path for c in clips} == {p for p in corpus.rglob("*") if p.suffix in (".wav", ".flac")}
    assert not told
    assert done == [1, 2, 3]


def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    good = make_clip(corpus / "anna" / "good.wav")
    make_clip(corpus / "anna" / "short.wav", 0.4)
    make_clip(corpus / "anna" / "silent.wav", level=0.0)
    make_clip(corpus / "nobody.wav")
    (corpus / "anna" / "text.wav").write_text("this is not audio")
    (corpus / "anna" / "empty.wav").touch()
    make_clip(corpus / "anna" / "latin.wav").with_suffix(".txt").write_bytes("Käse".encode("latin-1"))
    make_clip(corpus / "anna" / "tab\t.wav")
    told = []
    result = prepare(corpus, tmp_path / "corpus.tsv", tell=told.append)
    assert [c.path for c in read_manifest(tmp_path / "corpus.tsv")] == [good]
    reasons = {s.path.name: s.reason for s in told}
    assert reasons.keys() == {
        "short.wav",
        "silent.wav",
        "nobody.wav",
        "text.wav",
        "empty.wav",
        "latin.wav",
        "tab\t.wav",
    }
    assert reasons["short.wav"] == "is too short (0.40 s)"
    assert "silence" in reasons["silent.wav"]
    assert "not audio" in reasons["text.wav"]
    assert "empty" in reasons["empty.wav"]
    assert "speaker's folder" in reasons["nobody.wav"]
    assert "UTF-8" in reasons["latin.wav"]
    assert "tab" in reasons["tab\t.wav"]
    assert "skipped: 7 files" in result.summary()


def test_several_tables_and_their_column_names(tmp_path: Path) -> None:
    for name in ("a1", "b1", "b2"):
        make_clip(tmp_path / "audio" / f"{name}.wav")
    (tmp_path / "real.tsv").write_text("path\tspeaker\ttranscript\tsample_rate\naudio/a1.wav\tanna\tHello\t8000\n")
    (tmp_path / "made.tsv").write_text(
        "path\tspeaker\tsentence\ttext\n" + "audio/b1.wav\tben\ts1\tGood day\naudio/b2.wav\tbea\ts1\tGood day\n"
    )
    prepare(
        [tmp_path / "real.tsv", tmp_path / "made.tsv"],
        tmp_path / "corpus.tsv",
        layout="tsv",
        columns={"group": "sentence", "transcript": "text"},
    )
    clips = read_manifest(tmp_path / "corpus.tsv")
    assert [(c.speaker, c.transcript, c.group, c.sample_rate) for c in clips] == [
        ("anna", "Hello", "", 8000),
        ("ben", "Good day", "s1", RATE),
        ("bea", "Good day", "s1", RATE),
    ]


def test_a_group_is_aligned_or_no_group(tmp_path: Path) -> None:
    for name, seconds in (("1", 1.0), ("2", 1.0), ("3", 1.1)):
        make_clip(tmp_path / f"{name}.wav", seconds)
    table = tmp_path / "clips.tsv"
    table.write_text("path\tspeaker\tgroup\n1.wav\ta\tg\n2.wav\tb\tg\n3.wav\tc\tg\n")
    told = []
    prepare(table, tmp_path / "corpus.tsv", layout="tsv", tell=told.append)
    assert [c.speaker for c in read_manifest(tmp_path / "corpus.tsv")] == ["a", "b"]
    assert [(s.path.name, s.reason) for s in told] == [("3.wav", "is 1.1 s long, but its aligned group 'g' 1.0 s")]


def test_a_split_of_the_table_stays(tmp_path: Path) -> None:
    for name in "12":
        make_clip(tmp_path / f"{name}.wav")
    table = tmp_path / "clips.tsv"
    table.write_text("path\tspeaker\tsplit\n1.wav\ta\tvalid\n2.wav\tb\t\n")
    prepare(table, tmp_path / "corpus.tsv", layout="tsv")
    assert [c.split for c in read_manifest(tmp_path / "corpus.tsv")] == [VALID, TRAIN]


def test_bad_use_of_prepare(tmp_path: Path) -> None:
    make_clip(tmp_path / "corpus" / "anna" / "short.wav", 0.2)
    table = tmp_path / "clips.tsv"
    table.write_text("path\tspeaker\n1.wav\ta\n")
    output = tmp_path / "corpus.tsv"
    for message, sources, options in (
        ("no such folder", tmp_path / "none", {}),
        ("no clip could be used; the first problem: .*short.wav: is too short", tmp_path / "corpus", {}),
        ("unknown layout 'timit'", tmp_path / "corpus", {"layout": "timit"}),
        ("unknown column 'words'", table, {"layout": "tsv", "columns": {"words": "path"}}),
        ("no column 'text'", table, {"layout": "tsv", "columns": {"transcript": "text"}}),
        ("validation share", tmp_path / "corpus", {"valid_percent": 100}),
        ("1.wav: no such file", table, {"layout": "tsv"}),
    ):
        with pytest.raises(InputError, match=message):
            prepare(sources, output, **options)
    with pytest.raises(InputError, match="does not exist"):
        prepare(tmp_path / "corpus", tmp_path / "no" / "corpus.tsv")
    with pytest.raises(InputError, match="is a folder"):
        prepare(tmp_path / "corpus", tmp_path)
    assert not output.exists()


# ---------------------------------------------------------------- the validation split


def many_clips(speakers: int, groups: int) -> list[Clip]:
    real = [Clip(Path(f"{s}-{i}.wav"), f"speaker{s}") for s in range(speakers) for i in range(3)]
    return real + [Clip(Path(f"g{g}-{i}.wav"), f"voice{i}", group=f"g{g}") for g in range(groups) for i in range(3)]


def test_whole_speakers_and_whole_groups_are_kept_out() -> None:
    clips = split_clips(many_clips(1000, 500), 5)
    for key, several in (("speaker", [c for c in clips if not c.group]), ("group", [c for c in clips if c.group])):
        train = {getattr(c, key) for c in several if c.split == TRAIN}
        valid = {getattr(c, key) for c in several if c.split == VALID}
        assert not train & valid
        assert 0.03 < len(valid) / len(train | valid) < 0.07


def test_the_split_depends_on_the_names_alone() -> None:
    clips = many_clips(300, 100)
    split = {c.path: c.split for c in split_clips(clips, 5)}
    assert {c.path: c.split for c in split_clips(clips[::-1], 5)} == split
    grown = {c.path: c.split for c in split_clips(many_clips(400, 200), 5)}
    assert {path: grown[path] for path in split} == split


def test_a_small_corpus_has_a_validation_part_and_a_training_part() -> None:
    assert {c.split for c in split_clips(many_clips(2, 0), 1)} == {TRAIN, VALID}
    assert {c.split for c in split_clips(many_clips(2, 0), 99)} == {TRAIN, VALID}
    assert {c.split for c in split_clips(many_clips(1, 0), 50)} == {TRAIN}
    assert {c.split for c in split_clips(many_clips(9, 9), 0)} == {TRAIN}


# ---------------------------------------------------------------- phones

FAKE_ESPEAK = """#!{python}
import pathlib, re, sys
voice = sys.argv[sys.argv.index("-v") + 1]
with (pathlib.Path(__file__).parent / "calls").open("a") as calls:
    print(voice, file=calls)
if voice == "xx":
    sys.exit("Error: The specified espeak-ng voice does not exist.")
for line in sys.stdin.buffer.read().decode().splitlines():
    for clause in re.split("[,.]", line):
        if clause.strip():
            print(f" (en){{clause.strip()}}({{voice}})")
"""


@pytest.fixture
def espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for espeak-ng that echoes, one clause a line; returns the list of its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "espeak-ng"
    program.write_text(FAKE_ESPEAK.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    return folder / "calls"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_phones_of_many_texts_by_one_process(espeak: Path) -> None:
    texts = ["One, two. Three", "", "...", "GOOD DAY", "New\nline, über"]
    assert manifest.phonemize(texts, "en (Mandarin L1)") == ["One two Three", "", "", "good day", "New line über"]
    assert espeak.read_text().split() == ["en-us"]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_prepare_makes_the_phones_that_are_missing(tmp_path: Path, espeak: Path) -> None:
    for name in "1234":
        make_clip(tmp_path / f"{name}.wav")
    table = tmp_path / "clips.tsv"
    table.write_text(
        "path\tspeaker\tlanguage\ttranscript\tphones\n"
        "1.wav\ta\tde\teins\t\n2.wav\tb\t\ttwo\t\n3.wav\tc\tde\tdrei\tdʁaɪ\n4.wav\td\tde\t\t\n"
    )
    prepare(table, tmp_path / "corpus.tsv", layout="tsv", language="en-gb", phonemize=True)
    assert [c.phones for c in read_manifest(tmp_path / "corpus.tsv")] == ["eins", "two", "dʁaɪ", ""]
    assert sorted(espeak.read_text().split()) == ["de", "en-gb"]
    with pytest.raises(InputError, match=r"2.wav: its language is not known.*--language"):
        prepare(table, tmp_path / "other.tsv", layout="tsv", phonemize=True)
    assert not (tmp_path / "other.tsv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a #! line")
def test_a_language_that_espeak_does_not_speak(espeak: Path) -> None:
    with pytest.raises(InputError, match="language 'xx': espeak-ng does not support it"):
        manifest.phonemize(["Hello"], "xx")


def test_phones_without_espeak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "corpus" / "anna" / "1.wav")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="phones need the program espeak-ng; install it"):
        prepare(tmp_path / "corpus", tmp_path / "corpus.tsv", phonemize=True)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_real_espeak() -> None:
    first, second = manifest.phonemize(["Well, it is three. Is it?", "YES"], "en")
    assert "θɹˈiː" in first.split()
    assert not set(first) & set(",.?\n")
    assert second == "jˈɛs"
    assert "ʃ" in manifest.phonemize(["schön"], "de")[0]
