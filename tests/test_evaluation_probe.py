"""What `vconv probe` finds out about a model."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Cli, ToyEngine
from tests.synthetic import FORMANTS, RATE, VOWEL_SECONDS, make_corpus, speak
from vconv import audio, features
from vconv.config import BottleneckConfig
from vconv.data.manifest import Clip, read_manifest
from vconv.errors import InputError
from vconv.evaluation import phones, probe, probe_figures
from vconv.evaluation.probe import Choice, Seen
from vconv.evaluation.seen import look, read_speech
from vconv.evaluation.seen import spectra as spectra_of
from vconv.inference.utterance import Utterance
from vconv.voice import Voice
from vconv.voices.fitting_clips import choose_training

# ---------------------------------------------------------------- phones


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        ("həˈləʊ wɜːld", ["h", "ə", "l", "ə", "ʊ", "w", "ɜː", "l", "d"]),
        ("t͡ʃɪn", ["t͡ʃ", "ɪ", "n"]),
        ("mõ tʰa", ["m", "o\u0303", "tʰ", "a"]),
        ("ˈ , .", []),
    ],
)
def test_ipa_is_split(ipa: str, expected: list[str]) -> None:
    assert phones.split_phones(ipa) == expected


def test_phones_are_found_in_time() -> None:
    """From the order of the vowels alone, where they are in synthetic speech."""
    rng = np.random.default_rng(0)
    said = ["".join(rng.choice(list(FORMANTS), 8)) for _ in range(20)]
    spectra = []
    for number, words in enumerate(said):
        mel = features.log_mel(audio.normalize(audio.resample(speak(words, 150, 1.0, number), RATE, 16000), 16000))
        spectra.append(spectra_of(mel))
    found = phones.align(spectra, [list(words) for words in said])
    names = phones.inventory([list(words) for words in said])
    right = []
    for words, labels in zip(said, found):
        at = (np.arange(len(labels)) / features.FRAME_RATE) / (VOWEL_SECONDS + 0.02)
        middle = np.abs(at % 1 - 0.45) < 0.25  # away from the gaps, which are silence
        truth = [words[min(int(place), len(words) - 1)] for place in at[middle]]
        right += [names[label] == true for label, true in zip(labels[middle], truth)]
    assert np.mean(right) > 0.9


def test_clips_that_cannot_be_aligned_are_left_out() -> None:
    spectra = [np.random.default_rng(n).normal(size=(3, 10)) for n in range(3)]
    found = phones.align(spectra, [["a", "b"], [], ["a"] * 20])
    assert found[0] is not None and found[1] is None and found[2] is None
    assert np.all(np.diff(np.flatnonzero(np.diff(found[0]))) >= 1) and len(found[0]) == 10
    assert phones.align(spectra, [[], [], []]) == [None, None, None]


def test_information_of_codes() -> None:
    rng = np.random.default_rng(0)
    spoken = rng.integers(0, 8, 4000)
    told = phones.dependence(spoken, spoken)
    assert told.information == pytest.approx(told.entropy, abs=0.01) == pytest.approx(3, abs=0.01)
    assert told.purity == 1
    nothing = phones.dependence(rng.integers(0, 64, 4000), spoken)
    assert nothing.information < 0.02  # without the correction it would be 0.08
    assert nothing.commonest == pytest.approx(1 / 8, abs=0.02)
    half = phones.dependence(spoken // 2, spoken)
    assert half.information == pytest.approx(2, abs=0.02)
    assert half.purity == pytest.approx(0.5, abs=0.03)


# ---------------------------------------------------------------- which clips


def clips_of(speaker: str, count: int, split: str = "valid", group: str = "") -> list[Clip]:
    return [
        Clip(Path(f"{speaker}{n}.wav"), speaker, split=split, group=f"{group}{n}" if group else "")
        for n in range(count)
    ]


def test_clips_may_have_names_that_are_not_utf8() -> None:
    names = ["caf\udce9", "a", "b", "c"]
    every = [clip for name in names for clip in clips_of(name, 4, "train")]
    assert {clip.speaker for clip in probe.choose(every, Choice("train"))} == set(names)
    assert {clip.speaker for clip in choose_training(every, Path())} == set(names)


def test_clips_are_chosen_by_name() -> None:
    every = [*clips_of("a", 9), *clips_of("b", 5), *clips_of("few", 3), *clips_of("t", 9, "train")]
    shuffled = list(every)
    random.Random(0).shuffle(shuffled)
    chosen = probe.choose(every, Choice(clips=6))
    assert chosen == probe.choose(shuffled, Choice(clips=6))
    assert [clip.speaker for clip in chosen] == ["a"] * 6 + ["b"] * 5
    assert {clip.speaker for clip in probe.choose(every, Choice("all"))} == {"a", "b", "t"}
    assert len({clip.speaker for clip in probe.choose(every, Choice("all", speakers=2))}) == 2
    with pytest.raises(InputError, match="--split all"):
        probe.choose(every, Choice("train"))
    with pytest.raises(InputError, match="use train, valid, test or all"):
        probe.choose(every, Choice("tset"))


# ---------------------------------------------------------------- speakers


def seen_with(content: Callable[[int, np.random.Generator], np.ndarray]) -> Seen:
    """Ten sentences of six speakers; ``content`` makes the code [C, T] of a speaker's clip."""
    rng = np.random.default_rng(0)
    seen = Seen()
    for speaker in range(6):
        voice = np.eye(6)[speaker] * 3
        for clip in clips_of(f"s{speaker}", 10, group="g"):
            seen.clips.append(clip)
            seen.content.append(content(speaker, rng))
            seen.embeddings.append(voice + 0.3 * rng.normal(size=6))
    return seen


def test_a_leak_is_found_and_a_clean_code_is_not_accused() -> None:
    pytest.importorskip("sklearn")
    leaky = probe.speaker_figures(
        seen_with(lambda speaker, rng: rng.normal(size=(6, 30)) + np.eye(6)[speaker][:, None])
    )
    clean = probe.speaker_figures(seen_with(lambda speaker, rng: rng.normal(size=(6, 30))))
    found = {figure.key: figure for figure in leaky}
    assert found["speaker_from_code"].value > 0.9
    assert found["speaker_from_code"].chance == pytest.approx(1 / 6)
    assert found["speaker_from_embedding"].value > 0.95
    assert found["embedding_eer"].value < 0.02
    assert {figure.key: figure for figure in clean}["speaker_from_code"].value < 0.45


def test_a_leak_that_only_a_nonlinear_classifier_sees_is_found() -> None:
    """The code's deviation over time differs, by a sign that depends on another channel."""
    pytest.importorskip("sklearn")

    def content(speaker: int, rng: np.random.Generator) -> np.ndarray:
        a, b = rng.choice([-1, 1], 2)
        if speaker % 2:
            b = a
        else:
            b = -a
        return np.array([a, b])[:, None] + 0.2 * rng.normal(size=(2, 30))

    seen = seen_with(content)
    seen.clips = [Clip(clip.path, f"parity{int(clip.speaker[1]) % 2}", group=clip.group) for clip in seen.clips]
    assert {figure.key: figure for figure in probe.speaker_figures(seen)}["speaker_from_code"].value > 0.9


def test_verification_error() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(5), 6)
    known, unknown = np.eye(5)[speakers] + 0.05 * rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    assert probe_figures.verification(known, speakers).value == 0
    chance = probe_figures.verification(unknown, speakers)
    assert chance.value == pytest.approx(0.5, abs=0.12)
    assert 0.35 < chance.low < chance.value < chance.high < 0.65


def test_code_usage() -> None:
    seen = Seen(codes=[np.stack([np.arange(400) % 4, np.zeros(400, int)])] * 3)
    found = {figure.key: figure for figure in probe.code_figures(seen, 8)}
    assert found["code_usage"].value == pytest.approx((4 / 8 + 1 / 8) / 2)
    assert found["perplexity"].value == pytest.approx((4 + 1) / 2, rel=0.02)
    assert found["bits_per_second"].value == pytest.approx(2 * 31.25, rel=0.02)
    estimate = found["bits_per_second"].estimate
    assert estimate.low == pytest.approx(estimate.high) == pytest.approx(estimate.value)  # all clips are alike


def test_intervals_of_counts_lie_around_the_value() -> None:
    """Codes that a clip alone has go missing in most resamples: the interval must not lie below the value for that."""
    rng = np.random.default_rng(0)
    seen = Seen(
        codes=[np.concatenate([rng.integers(0, 40, 50), 40 + rng.integers(0, 200, 10)])[None] for _ in range(30)]
    )
    for figure in probe.code_figures(seen, 256):
        estimate = figure.estimate
        assert estimate.low < estimate.value < estimate.high, figure.key
    fewer = Seen(codes=seen.codes[:8])
    widths = [
        {figure.key: figure.estimate.high - figure.estimate.low for figure in probe.code_figures(part, 256)}
        for part in (seen, fewer)
    ]
    assert widths[0]["bits_per_second"] < 0.8 * widths[1]["bits_per_second"]


def test_a_read_out_is_as_sure_as_its_clips_are_many() -> None:
    pytest.importorskip("sklearn")
    seen = seen_with(lambda speaker, rng: rng.normal(size=(6, 30)) + 0.25 * np.eye(6)[speaker][:, None])
    found = probe.speaker_figures(seen)[0].estimate
    assert found.count == 60  # every clip is asked once
    assert found.low < found.value < found.high
    assert 0.15 < found.high - found.low < 0.3  # 60 coin flips have 0.25


def test_phones_are_read_off_the_code(toy_engine: ToyEngine, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    seen = look(read_manifest(make_corpus(tmp_path, 8)), toy_engine)
    found = {figure.key: figure for figure in probe.phone_figures(seen)}
    assert found["phone_from_code"].value > found["phone_from_code"].chance + 0.15  # its content is the mel
    assert 0.2 < found["phone_information"].value <= 1
    assert found["phone_purity"].value > found["phone_purity"].chance + 0.1
    assert found["phone_from_pseudo_labels"].value > found["phone_from_pseudo_labels"].chance + 0.1
    for figure in found.values():
        assert figure.estimate.low < figure.value < figure.estimate.high, figure.key
    seen.clips = [Clip(clip.path, clip.speaker) for clip in seen.clips]
    assert probe.phone_figures(seen) == []


def test_a_mel_is_rebuilt_from_the_voice_of_another_clip(toy_engine: ToyEngine, tmp_path: Path) -> None:
    clips = read_manifest(make_corpus(tmp_path, 2))
    (figure,) = probe.rebuilt_figures(clips, toy_engine)
    assert figure.estimate.count == len(clips) == 8
    errors = []
    for clip in clips:
        other = next(c for c in clips if c.speaker == clip.speaker and c != clip)
        said, heard = (Utterance.of(read_speech(c.path)) for c in (clip, other))
        content, voice = toy_engine.content(said).content, Voice(toy_engine.speaker(heard), None)
        made = toy_engine.decode(content, np.zeros((2, said.frames)), voice).mel
        errors.append(np.abs(made - said.mel).mean() * 20 / np.log(10))
    assert figure.value == pytest.approx(np.mean(errors), rel=1e-5)
    assert {reference.mel.shape[1] for reference in toy_engine.references if reference} <= {
        Utterance.of(read_speech(clip.path)).frames for clip in clips
    }
    assert probe.rebuilt_figures(clips[:4], toy_engine) == []  # a clip of each speaker


def test_bad_clips_are_listed(toy_engine: ToyEngine, tmp_path: Path) -> None:
    audio.write(tmp_path / "silent.wav", np.zeros(16000, np.float32), 16000)
    seen = look([Clip(tmp_path / "gone.wav", "a"), Clip(tmp_path / "silent.wav", "a")], toy_engine)
    assert not seen.clips
    assert "no such file" in seen.bad[0] and "too little speech" in seen.bad[1]


# ---------------------------------------------------------------- the command


def test_probe_command(vconv_cli: Cli, small_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    manifest, out = make_corpus(tmp_path / "corpus", 8), tmp_path / "out"
    done = vconv_cli("probe", small_model, manifest, "-o", out, "--split", "all")
    assert (done.code, done.err) == (0, "")
    assert "32 clips of 4 speakers" in done.out and "perplexity" in done.out
    found = json.loads((out / "probe.json").read_text())
    assert set(found["figures"]) == {
        "speaker_from_code", "speaker_from_embedding", "embedding_eer", "code_usage", "perplexity",
        "bits_per_second", "phone_from_code", "phone_from_pseudo_labels", "phone_information", "phone_purity",
        "rebuilt_error",
    }  # fmt: skip
    assert "95 % interval" in done.out
    for figure in found["figures"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert found["figures"]["speaker_from_embedding"]["chance"] == 0.25
    assert 1 <= found["figures"]["perplexity"]["value"] <= 16
    for name in ("embeddings_pca", "embeddings_tsne", "codes_pca", "codes_tsne"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_probe_asks_the_codes_of_the_first_stages(vconv_cli: Cli, small_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    from tests.test_bottleneck_models import with_bottleneck

    model = with_bottleneck(tmp_path / "model", small_model, BottleneckConfig("vq", codes=16, quantizers=2))
    manifest, found = make_corpus(tmp_path / "corpus", 5), {}
    for stages in (1, 2):
        done = vconv_cli("probe", model, manifest, "-o", tmp_path / "out", "--split", "all", "--stages", stages)
        assert (done.code, done.err) == (0, "")
        found[stages] = json.loads((tmp_path / "out" / "probe.json").read_text())["figures"]
    assert found[1]["bits_per_second"]["value"] < 0.7 * found[2]["bits_per_second"]["value"]
    assert found[1]["phone_from_code"] == found[2]["phone_from_code"]  # vectors are the decoder's
    done = vconv_cli("probe", model, manifest, "-o", tmp_path / "out", "--split", "all", "--stages", 3)
    assert done.code == 2 and "use 1 to 2" in done.error


@pytest.mark.parametrize(("split", "words"), [("valid", "--split all"), ("none", "use train, valid, test or all")])
def test_bad_use_of_probe(vconv_cli: Cli, small_model: Path, tmp_path: Path, split: str, words: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    manifest = make_corpus(tmp_path / "corpus", 2)
    done = vconv_cli("probe", small_model, manifest, "-o", tmp_path / "out", "--split", split)
    assert done.code == 2 and words in done.error
    assert not (tmp_path / "out").exists()


def test_probe_says_what_to_install(vconv_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None)
    done = vconv_cli("probe", tmp_path, tmp_path / "corpus.tsv")
    assert done.code == 2 and "vconv[eval]" in done.error
