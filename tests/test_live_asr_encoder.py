"""The live ASR encoder: blocks in training, in the graph and live, and what its training learns."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

from tests.conftest import BASE_MODEL, REPOSITORY, speech  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_recipes import script  # noqa: E402
from tests.test_training import scalars, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.export.live_asr_encoder import live_asr_encoder_graph  # noqa: E402
from vconv.features import SAMPLE_RATE  # noqa: E402
from vconv.frontends.asr_encoder import AsrEncoder  # noqa: E402
from vconv.frontends.ends import MIRRORED_SAMPLES, mirrored_end  # noqa: E402
from vconv.frontends.grid import CODE_HOP, at_places, places  # noqa: E402
from vconv.frontends.live_asr_encoder import LiveAsrEncoder  # noqa: E402
from vconv.inference import load  # noqa: E402
from vconv.live import asr_stream  # noqa: E402
from vconv.live.asr_stream import AsrStream  # noqa: E402
from vconv.model_folder import ASR_ENCODER, LIVE_ASR_ENCODER, record_digests  # noqa: E402
from vconv.models.pretrained.moonshine_live import PAST_FRAMES, LiveMoonshine, in_blocks  # noqa: E402
from vconv.training import live_windows  # noqa: E402

GRAPH, LIVE_GRAPH = BASE_MODEL / ASR_ENCODER, BASE_MODEL / LIVE_ASR_ENCODER
STRIDE, CENTRE = 384, 447
SPAN = 2 * CENTRE + 1
TRAINING = f"""
task: live_asr_encoder
asr_encoder: {GRAPH}
threads: 1
batch: {{items: 4, seconds: 1.5, disturb: {{clean: 1}}}}
block: [1]
ahead: [1]
optimizer: {{warmup: 2, learning_rate: 0.001, ema: 0.8}}
log: {{every: 5, validate_every: 15}}
"""


@pytest.fixture(scope="module")
def miniature() -> LiveMoonshine:
    torch.manual_seed(0)
    found = LiveMoonshine(channels=288, hidden=16, layers=2, stride=STRIDE, centre=CENTRE)
    found.level.copy_(torch.tensor([0.0, 0.1]))
    return found.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def graph(miniature: LiveMoonshine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / LIVE_ASR_ENCODER
    onnx.save(live_asr_encoder_graph(miniature), path)
    return path


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    wave, rate = audio.read(REPOSITORY / "examples" / "source.flac")
    return audio.normalize(audio.resample(wave, rate, SAMPLE_RATE), SAMPLE_RATE).astype(np.float32)[: 4 * SAMPLE_RATE]


def wave_of(frames: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, SPAN + STRIDE * (frames - 1), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize(("block", "ahead"), [(1, 2), (2, 0), (3, 1), (4, 7), (200, 5)])
def test_a_frame_attends_to_its_block_the_lookahead_and_the_past(block: int, ahead: int) -> None:
    frames = 130
    place, is_ahead, visible = in_blocks(frames, block, ahead)
    assert place[~is_ahead].tolist() == list(range(frames))
    for frame in (0, 1, 5, 77, frames - 1):
        start = frame // block * block
        end = min(start + block, frames)
        seen = place[visible[frame]].tolist()
        assert sorted(seen) == list(range(max(start - PAST_FRAMES, 0), min(end + ahead, frames)))
        # What lies after the block is seen as the block's own lookahead, which saw no more than the block does.
        assert all(is_ahead[visible[frame]][k] == (one >= end) for k, one in enumerate(seen))


def test_a_step_after_another_gives_what_training_has_at_once(miniature: LiveMoonshine) -> None:
    frames, block, ahead = PAST_FRAMES + 21, 3, 2
    wave = wave_of(frames)
    level = miniature.levels(wave)
    together, _ = miniature.encoded(wave, level, block, ahead)
    keys = values = torch.zeros(2, PAST_FRAMES, 288)
    for start in range(0, frames, block):
        end = min(start + block + ahead, frames)
        heard = wave[:, STRIDE * start : STRIDE * (end - 1) + SPAN]
        features, new_keys, new_values, _ = miniature.step(heard, level, torch.tensor(start), keys, values)
        count = min(block, frames - start)
        torch.testing.assert_close(features[:, :count], together[:, start : start + count], atol=1e-4, rtol=1e-4)
        keys, values = (
            torch.cat([old[:, count:], new[:, :count]], dim=1) for old, new in ((keys, new_keys), (values, new_values))
        )


@pytest.mark.parametrize(("block", "ahead", "mirrored"), [(1, 1, 384), (2, 2, 512), (3, 5, 129)])
def test_the_end_of_what_is_known_goes_on_mirrored(
    miniature: LiveMoonshine, block: int, ahead: int, mirrored: int
) -> None:
    wave = wave_of(20, seed=1)
    level = miniature.levels(wave)
    together, _ = miniature.encoded(wave, level, block, ahead, mirrored)
    plain, _ = miniature.encoded(wave, level, block, ahead)
    keys = values = torch.zeros(2, PAST_FRAMES, 288)
    for start in range(0, 12, block):
        known = wave[:, : STRIDE * (start + block + ahead - 1) + SPAN - mirrored].numpy()
        seen = torch.tensor(mirrored_end(known, mirrored))[:, STRIDE * start :]
        features, new_keys, new_values, _ = miniature.step(seen, level, torch.tensor(start), keys, values)
        own = slice(start, start + block)
        torch.testing.assert_close(features[:, :block], together[:, own], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(features[:, :block], plain[:, own], atol=1e-3)
        keys, values = (
            torch.cat([old[:, block:], new[:, :block]], dim=1) for old, new in ((keys, new_keys), (values, new_values))
        )


def test_without_lookahead_nothing_is_mirrored(miniature: LiveMoonshine) -> None:
    wave, level = wave_of(9), miniature.level[None]
    (found, _), (plain, _) = (miniature.encoded(wave, level, 2, 0, mirrored) for mirrored in (384, 0))
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize(("block", "ahead", "mirrored"), [(1, 1, 384), (2, 3, 300), (4, 7, 512)])
def test_windows_end_with_what_is_known_after_their_block(
    miniature: LiveMoonshine, block: int, ahead: int, mirrored: int
) -> None:
    frames = 120
    places_of = torch.tensor([0.0, 0.4, 0.99])
    at = live_windows.cuts(miniature, frames, block, ahead, mirrored, places_of)
    assert [one.number for one in at] == sorted({one.number for one in at}) and at[0].known >= live_windows.WINDOW
    assert at[-1].end + ahead > frames - 2 * block
    assert live_windows.cuts(miniature, 30, block, ahead, mirrored, places_of) == []
    found, blocks = miniature.encoded(wave_of(frames), miniature.level[None], block, ahead, mirrored)
    for one in at:
        samples = STRIDE * (one.end + ahead - 1) + SPAN - mirrored
        assert one.known == samples // CODE_HOP
        code = np.arange(one.known - live_windows.WINDOW, one.known + live_windows.AFTER)
        features = live_windows.features_at(miniature, found, frames, ahead, one)
        # What is there twice is of this block here: its own frames, then its lookahead.
        again = (blocks.ahead.nonzero()[:, 0][one.number * ahead :])[:ahead]
        rows = torch.cat([found[0, : one.end], found[0, again]])
        wanted = at_places(rows.numpy(), places(code, STRIDE, CENTRE))
        np.testing.assert_allclose(features[0].T, wanted, atol=1e-5)
        needed = places(np.array(one.due), STRIDE, CENTRE)
        assert len(one.due) >= 1 and needed.max() <= one.end - 1 < needed.max() + CODE_HOP / STRIDE
        assert one.due == list(range(one.due[0], one.due[-1] + 1)) and one.due[-1] < one.known


def test_with_all_in_one_block_it_is_the_encoder_of_whole_waves() -> None:
    from vconv.models.pretrained.moonshine import load_moonshine

    whole = load_moonshine(GRAPH)
    live, wave = LiveMoonshine.of(whole).eval(), wave_of(50)
    found, _ = live.encoded(wave, live.levels(wave), 50, 0)
    torch.testing.assert_close(found, whole.last(whole.hidden(wave)[-1]), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- the graph


def test_the_graph_is_the_module_in_8_bits(miniature: LiveMoonshine, graph: Path) -> None:
    encoder = LiveAsrEncoder(graph, 288, 1)
    assert (encoder.stride, encoder.centre, encoder.span) == (STRIDE, CENTRE, SPAN)
    np.testing.assert_allclose(encoder.level, miniature.level, rtol=1e-6)
    weights = sum(parameter.numel() for parameter in miniature.parameters())
    assert graph.stat().st_size < 1.1 * weights  # bytes
    memory = encoder.begin()
    keys = values = torch.zeros(2, PAST_FRAMES, 288)
    for known, frames in ((0, 5), (4, 2), (5, 30)):
        wave = wave_of(frames, known)
        found = encoder(wave[0].numpy(), encoder.level, memory)
        wanted = miniature.step(wave, miniature.level[None], torch.tensor(known), keys, values)
        assert found.features.shape == (frames, 288) and found.keys.shape == (2, frames, 288)
        for one, other in zip((found.features[None], found.keys, found.values), wanted):
            assert np.corrcoef(one.ravel(), other.numpy().ravel())[0, 1] > 0.99
        np.testing.assert_allclose(found.level, miniature.levels(wave)[0], atol=2e-4)
        count = frames - 1
        memory = found.into(memory, count)
        keys, values = (
            torch.cat([old[:, count:], new[:, :count]], dim=1) for old, new in ((keys, wanted[1]), (values, wanted[2]))
        )
        assert memory.known == known + count


def test_a_wrong_file_is_told_from_one_for_streams(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="belongs to another model"):
        LiveAsrEncoder(graph, 100, 1)
    with pytest.raises(InputError, match="is no ASR encoder for live conversion"):
        LiveAsrEncoder(GRAPH, 288, 1)
    (tmp_path / LIVE_ASR_ENCODER).write_bytes(b"no graph")
    with pytest.raises(InputError, match="not a working ONNX graph"):
        LiveAsrEncoder(tmp_path / LIVE_ASR_ENCODER, 288, 1)


# ---------------------------------------------------------------- live


def due_features(
    stream: AsrStream, wave: np.ndarray, due: int, kept: int, step: int = 1, ahead: int = 2
) -> tuple[np.ndarray, int]:
    """Features of the last ``kept`` frames of the code when ``step`` of them are due, and the number of the first."""
    end = due + step + ahead
    first = max(end - kept, 0)
    window = wave[first * CODE_HOP : end * CODE_HOP]
    return stream.features(window, range(first, end), range(due, due + step), end), first


@pytest.mark.parametrize(
    ("step", "ahead", "least"),
    [(1, 2, 0.85), (3, 6, 0.9), (31, 6, 0.92), (3, 22, 0.93)],
    ids=["short", "default", "a block of 1 s", "a lookahead of 0.7 s"],
)
def test_a_stream_has_the_features_of_files(spoken: np.ndarray, step: int, ahead: int, least: float) -> None:
    stream, parts = AsrStream(LiveAsrEncoder(LIVE_GRAPH, 288, 1), past=40), []
    for due in range(0, len(spoken) // CODE_HOP - step - ahead + 1, step):
        features, first = due_features(stream, spoken, due, 32 + step + ahead, step, ahead)
        parts.append(features[:, due - first :][:, :step])
    found = np.concatenate(parts, axis=1)
    wanted = AsrEncoder(GRAPH)(spoken)[:, : found.shape[1]]
    middle = wanted.mean(axis=1, keepdims=True)
    similar = torch.cosine_similarity(*(torch.from_numpy(x - middle) for x in (found, wanted)), dim=0)
    assert similar.mean() > least


def test_features_stay_once_their_lookahead_was_encoded(graph: Path) -> None:
    encoder, wave = LiveAsrEncoder(graph, 288, 1), wave_of(120)[0].numpy()
    stream, settled = AsrStream(encoder, past=30), {}
    for due in range(len(wave) // CODE_HOP - 3):
        found, first = due_features(stream, wave, due, 30)
        for frame in range(first, due - 1):  # a frame of the code lies between two of the encoder's
            np.testing.assert_allclose(
                found[:, frame - first], settled.setdefault(frame, found[:, frame - first]), 1e-4
            )


@pytest.mark.parametrize("kept", [14, 60])
def test_after_a_pause_little_is_encoded(kept: int, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, wave = LiveAsrEncoder(graph, 288, 1), wave_of(400)[0].numpy()
    stream, lengths = AsrStream(encoder, past=30), []
    call = LiveAsrEncoder.__call__

    def noted(self: LiveAsrEncoder, wave: np.ndarray, *rest):
        lengths.append(len(wave))
        return call(self, wave, *rest)

    monkeypatch.setattr(LiveAsrEncoder, "__call__", noted)
    for due in (0, 1, 2, 200, 201):  # in between nobody spoke
        found, first = due_features(stream, wave, due, kept)
        assert found.shape == (288, due + 3 - first) and np.isfinite(found).all()
    window = kept * CODE_HOP + MIRRORED_SAMPLES
    most = encoder.samples(asr_stream.CATCH_UP) + MIRRORED_SAMPLES
    assert min(window, most) - 2 * STRIDE < lengths[3] <= min(window, most)
    assert max(lengths[4], *lengths[:3]) < lengths[3] / 2


def test_later_samples_change_nothing_before(model: Path) -> None:
    converter = load(model, threads=1)
    live = converter.live(converter.voice((speech(2.0, f0=220, seed=2), 16000)), 0.032, lookahead=0.064)
    assert live.latency == pytest.approx(0.096)
    wave = speech(1.2, f0=150)
    other = wave.copy()
    change = round(0.7 * SAMPLE_RATE)
    other[change:] = speech(1.2, f0=230, seed=5)[change:] * 2
    first, second = (np.concatenate([live.process(x), live.flush()]) for x in (wave, other))
    same = int((change / SAMPLE_RATE - live.latency) * 24000)
    np.testing.assert_allclose(first[:same], second[:same], atol=1e-5)
    assert np.abs(first - second)[same:].max() > 1e-3
    cut = [live.process(part) for part in np.array_split(wave, 37)]
    np.testing.assert_allclose(np.concatenate([*cut, live.flush()]), first, atol=1e-4)


def test_a_model_without_one_converts_live_by_the_encoder_of_files(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / LIVE_ASR_ENCODER).unlink()
    record_digests(folder)
    wave = speech(1.0)
    with_one, without = (load(place, threads=1).live((speech(2.0, f0=220, seed=2), 16000)) for place in (model, folder))
    outs = [np.concatenate([live.process(wave), live.flush()]) for live in (with_one, without)]
    assert len(outs[0]) == len(outs[1]) and np.abs(outs[0] - outs[1]).max() > 1e-3 and np.abs(outs[1]).max() > 1e-2


def test_a_damaged_one_is_told_in_one_line(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    damaged = bytearray((folder / LIVE_ASR_ENCODER).read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (folder / LIVE_ASR_ENCODER).write_bytes(damaged)
    with pytest.raises(InputError, match=f"{LIVE_ASR_ENCODER}.*download the model again"):
        load(folder, threads=1).live((speech(2.0), 16000))


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("asr_encoder=''", "asr_encoder: not set"),
        ("batch.broken_off=0.5", "batch.broken_off: these waves are whole"),
        ("block=[0]", r"block: \[0\] is no list of lengths; use numbers of frames from 1"),
        ("ahead=[]", r"ahead: \[\] is no list of lengths"),
        ("mirrored=600", "mirrored: 600; use 0 to 512"),
    ],
)
def test_what_is_wrong_is_told_at_once(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, TRAINING, tmp_path / "none.tsv", setting)


@pytest.mark.slow
def test_its_training_learns_and_becomes_a_graph(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "clips")
    state = train(tmp_path, TRAINING, manifest, "optimizer.steps=30", f"conversion={BASE_MODEL}")
    distance, code = (scalars(tmp_path, name) for name in ("content_consistency", "code"))
    assert distance[-1] < 0.75 * distance[0] and code[-1] < 0.75 * code[0]
    held_out = scalars(tmp_path, "validation/1_2")
    assert held_out[-1] < held_out[0]
    assert all(name.startswith("asr_encoder.") for name in state["ema"])  # without the one that it learned from
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    graph = tmp_path / "live.onnx"
    recipe = script(REPOSITORY / "recipes" / "base" / "asr_encoder.py")
    assert recipe.main([str(GRAPH), "--live", str(checkpoint), "-o", str(graph)]) == 0
    encoder = LiveAsrEncoder(graph, 288, 1)
    assert encoder.level[1] > 0
    assert np.isfinite(encoder(speech(0.5), encoder.level, encoder.begin()).features).all()
    (tmp_path / "other.onnx").write_bytes(b"no graph")
    assert recipe.main([str(tmp_path / "other.onnx"), "--live", str(checkpoint), "-o", str(graph)]) == 2


@pytest.mark.slow
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "clips")
    settings = "optimizer.final_rate=0.001", "log.validate_every=1000"  # the same rate, however many steps there are
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = train(folders[0], TRAINING, manifest, *settings, "optimizer.steps=4")
    train(folders[1], TRAINING, manifest, *settings, "optimizer.steps=2")
    again = train(folders[1], TRAINING, manifest, *settings, "optimizer.steps=4", resume=True)
    for part in ("learner", "ema"):
        for name, value in whole[part].items():
            assert value.equal(again[part][name]), name
