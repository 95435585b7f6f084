"""An ASR encoder beside the mel: its frames, in training and in use, on one grid with the content code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.synthetic import ASR_KERNEL, ASR_STRIDE, make_asr_encoder, make_corpus
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, OUTPUT_HOP, SAMPLE_RATE, frame_count
from vconv.frontends.asr_encoder import FRESH_FRAMES, AsrEncoder, FolderAsrEncoder
from vconv.frontends.grid import CODE_HOP, at_places
from vconv.inference.utterance import Utterance

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import vconv  # noqa: E402
from tests.test_recipes import RECIPES, script  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, train  # noqa: E402
from vconv.config import ConversionConfig  # noqa: E402
from vconv.data.augmentation import recording as disturb  # noqa: E402
from vconv.data.batches import BatchConfig, ConversionSampler  # noqa: E402
from vconv.data.corpus import load_corpus  # noqa: E402
from vconv.data.decoded import Decoded  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.on_the_fly import OnTheFly  # noqa: E402
from vconv.data.store import Entry, build, open_store  # noqa: E402
from vconv.export import export  # noqa: E402
from vconv.inference.loading import load  # noqa: E402
from vconv.models.content_encoder import ContentEncoder  # noqa: E402
from vconv.models.conversion import ConversionModel  # noqa: E402
from vconv.training.predict import predict_mels  # noqa: E402


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_asr_encoder(tmp_path_factory.mktemp("asr_encoder") / "asr_encoder.onnx")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, graph: Path) -> Path:
    # A folder of a fixed name: clips are disturbed by their name and that of their folder.
    manifest = make_corpus(tmp_path_factory.mktemp("corpus") / "clips")
    build(read_manifest(manifest), manifest.with_suffix(".store"), asr_encoder=str(graph))
    return manifest


# ---------------------------------------------------------------- on a wave


def swelling(seconds: float) -> np.ndarray:
    """A wave whose power at each sample is its time in seconds: [N] at 16 kHz"""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (np.sqrt(time) * np.where(np.arange(len(time)) % 2, 1, -1)).astype(np.float32)


@pytest.mark.parametrize("seconds", [3.0, 30.0])
def test_features_are_of_the_middle_of_a_frame_of_the_code(graph: Path, seconds: float) -> None:
    """Heard at once or in stretches: the loudness says the time."""
    wave = swelling(seconds)
    features = AsrEncoder(graph)(wave)
    assert features.shape == (2, (frame_count(len(wave)) + 1) // 2) and features.dtype == np.float32
    middle = (np.arange(features.shape[1]) * CODE_HOP + HOP_LENGTH / 2) / SAMPLE_RATE
    inside = slice(2, -2)  # at the ends a frame of the ASR encoder is not filled
    np.testing.assert_allclose(features[0, inside], middle[inside], atol=2e-3)
    np.testing.assert_allclose(features[1], 4 * features[0], rtol=1e-5)
    if seconds > 10:
        assert features.shape[1] > 2 * FRESH_FRAMES


@pytest.mark.parametrize("samples", [1, 100, 512, 4001])
def test_short_waves_have_features_too(graph: Path, samples: int) -> None:
    assert AsrEncoder(graph)(np.full(samples, 0.1, np.float32)).shape == (2, (frame_count(samples) + 1) // 2)


def test_places_between_rows_are_mixed_and_the_ends_held() -> None:
    rows = np.array([[0.0], [10.0], [30.0]])
    np.testing.assert_allclose(at_places(rows, np.array([-1, 0.25, 1, 1.5, 9]))[:, 0], [0, 2.5, 10, 20, 30])
    np.testing.assert_allclose(at_places(rows[:1], np.array([0.0, 3.0]))[:, 0], [0, 0])


def test_what_is_no_recognizer_is_refused(graph: Path, tmp_path: Path) -> None:
    import onnx

    plain = onnx.load(graph)
    del plain.metadata_props[:]
    onnx.save(plain, tmp_path / "plain.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    for name, message in (("plain", "is no ASR encoder"), ("text", "not a working ONNX"), ("gone", "no such")):
        with pytest.raises(InputError, match=message):
            AsrEncoder(tmp_path / f"{name}.onnx")
    with pytest.raises(InputError, match="belongs to another model"):
        FolderAsrEncoder(graph.parent, 3, 1)(np.zeros(8000, np.float32))


def test_an_attention_mask_is_taken_out(tmp_path: Path) -> None:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Unsqueeze", ["wave", "two"], ["x"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "turned"], ["scores"]),
        helper.make_node("Cast", ["mask"], ["flags"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["flags", "one"], ["hidden"]),
        helper.make_node("Unsqueeze", ["hidden", "axis"], ["bias"]),
        helper.make_node("Add", ["scores", "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["features"]),
    ]
    numbers = {"two": np.array([2]), "axis": np.array([1]), "one": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(n, kind, [1, None]) for n, kind in (("wave", 1), ("mask", TensorProto.INT64))],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, None, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    run = lambda: onnxruntime.InferenceSession(model.SerializeToString())  # noqa: E731
    wave = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    (before,) = run().run(None, {"wave": wave, "mask": np.ones((1, 50), np.int64)})
    model = script(RECIPES / "base" / "asr_encoder.py").without_masks(model)
    assert [one.name for one in model.graph.input] == ["wave"]
    assert not {"Cast", "Sub", "Add"} & {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(run().run(None, {"wave": wave})[0], before, atol=1e-6)
    onnx.checker.check_model(model)


def test_one_is_made_of_any_encoder(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    plain, made = tmp_path / "encoder.onnx", tmp_path / "asr_encoder.onnx"
    model = onnx.load(graph)
    del model.metadata_props[:]
    onnx.save(model, plain)
    main = script(RECIPES / "base" / "asr_encoder.py").main
    place = ["--stride", str(ASR_STRIDE), "--centre", str(ASR_KERNEL // 2)]
    assert main([str(plain), "-o", str(made), *place]) == 0
    wave = swelling(2.0)
    np.testing.assert_allclose(AsrEncoder(made)(wave), AsrEncoder(graph)(wave), rtol=1e-2)  # half precision
    assert made.stat().st_size < plain.stat().st_size
    plain.write_text("no model")
    assert main([str(plain), "-o", str(made), *place]) == 2
    assert "not a model that onnxruntime can load" in capsys.readouterr().err


# ---------------------------------------------------------------- in the content encoder


def test_the_encoder_hears_it_but_not_what_is_constant_in_it() -> None:
    torch.manual_seed(0)
    encoder = ContentEncoder(ConversionConfig(channels=16, content_blocks=(1, 1), asr_channels=3)).eval()
    mel, asr_features = torch.randn(2, 80, 40), torch.randn(2, 3, 20)
    plain = encoder(mel)
    assert torch.equal(encoder(mel, torch.zeros(2, 3, 20)), plain)
    heard = encoder(mel, asr_features)
    assert (heard - plain).abs().mean() > 1e-2
    torch.testing.assert_close(encoder(mel, 3 * asr_features + 5), heard, atol=1e-3, rtol=0)
    deaf = ContentEncoder(ConversionConfig(channels=16, content_blocks=(1, 1))).eval()
    assert torch.equal(deaf(mel, torch.zeros(2, 0, 20)), deaf(mel))


# ---------------------------------------------------------------- in training


def test_the_store_has_its_features_and_each_clip_disturbed(corpus: Path, graph: Path) -> None:
    store, plain = (open_store(corpus.with_suffix(".store"), name) for name in (str(graph), ""))
    assert (store.asr_channels, plain.asr_channels) == (2, 0)
    for entry in store.entries:
        mel, asr_features = store.clip_mel(entry).astype(np.float32), store.clip_asr_features(entry)
        disturbed, heard = store.clip_disturbed(entry)
        assert asr_features.shape == heard.shape == ((len(mel) + 1) // 2, 2)
        assert disturbed.shape == mel.shape and np.isfinite(disturbed).all() and np.isfinite(heard).all()
        assert np.abs(disturbed - mel).mean() > 0.05
        # The words are where they were: in noise or not, it is loud where the clip is.
        level, noisy = (np.log(np.exp(2 * np.float64(x)).sum(axis=1)) for x in (mel, disturbed))
        assert np.corrcoef(level, noisy)[0, 1] > 0.3
        assert plain.clip_asr_features(entry) is None
    np.testing.assert_array_equal(plain.mel, store.mel)


def test_a_store_is_of_one_recognizer(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    make_asr_encoder(other)
    open_store(corpus.with_suffix(".store"), str(other))  # the same one elsewhere is as good
    other.write_bytes(b"another")
    with pytest.raises(InputError, match="feature store without the features of"):
        open_store(corpus.with_suffix(".store"), str(other))


def test_live_features_are_those_of_the_store(corpus: Path, graph: Path, tmp_path: Path) -> None:
    store = open_store(corpus.with_suffix(".store"), str(graph))
    clips = [dataclasses.replace(clip, seconds=1.5) for clip in read_manifest(corpus)]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        live = OnTheFly(clips, cache, str(graph))
        assert live.asr_channels == 2
        for entry, same in zip(live.entries[:3], store.entries):
            np.testing.assert_array_equal(live.clip_asr_features(entry), store.clip_asr_features(same))
            mel, heard = live.clip_disturbed(entry)
            assert mel.shape == store.clip_mel(same).shape and heard.shape == store.clip_asr_features(same).shape


def test_crops_of_both_come_from_one_place(corpus: Path, graph: Path) -> None:
    """Loud where the mel is loud, in all that is drawn."""
    training, _ = load_corpus(open_store(corpus.with_suffix(".store"), str(graph)), read_manifest(corpus))
    config = BatchConfig(
        items=24, frames=48, reference_frames=(96, 96), parallel_perturb=0.0, asr_dropout=0.0, phone_perturb=0.0
    )
    batch = ConversionSampler(training, config, 0).batch(0)
    pairs = [(batch.source.mel[:8], batch.source.asr_features[:8])]  # the first are parallel, and so undisturbed
    pairs += [(batch.clean.mel, batch.clean.asr_features), (batch.reference.mel, batch.reference.asr_features)]
    for mel, asr_features in [*pairs, batch.phone_clips.speech]:
        assert asr_features.shape == (len(mel), 2, mel.shape[2] // 2)
        power = np.exp(2 * np.float64(mel)).sum(axis=1).reshape(len(mel), -1, 2).mean(axis=2)
        fits = [
            np.mean([np.corrcoef(a, np.roll(b, shift))[0, 1] for a, b in zip(power, asr_features[:, 0])])
            for shift in (-2, 0, 2)
        ]
        assert fits[1] > 0.8 and fits[1] > fits[0] + 0.1 and fits[1] > fits[2] + 0.1
    dropped = ConversionSampler(training, dataclasses.replace(config, asr_dropout=0.5), 0).batch(0)
    assert 4 < (np.abs(dropped.source.asr_features).max(axis=(1, 2)) == 0).sum() < 20
    assert (np.abs(dropped.clean.asr_features).max(axis=(1, 2)) > 0).all()


def test_what_is_disturbed_is_so_by_its_seed_alone() -> None:
    wave, others = swelling(2.0) / 2, [swelling(1.0), swelling(0.5)]
    made = [disturb.surround(wave, np.random.default_rng(seed), others) for seed in (1, 1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(made[0], made[1])
    assert sum(not np.array_equal(wave, one) for one in made[1:]) >= 2
    assert all(one.shape == wave.shape and np.isfinite(one).all() for one in made)
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    higher = disturb.faster(np.sin(2 * np.pi * 400 * time).astype(np.float32), 1.25)
    assert len(higher) == round(SAMPLE_RATE / 1.25)
    assert np.abs(np.fft.rfft(higher)).argmax() * SAMPLE_RATE / len(higher) == pytest.approx(500, abs=2)


# ---------------------------------------------------------------- from training to use


def test_mels_are_predicted_anew_with_another_asr_encoder(corpus: Path, graph: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    proto = onnx.load(graph)
    proto.producer_name = "another"
    onnx.save(proto, other)
    torch.manual_seed(0)
    model = ConversionModel(ConversionConfig(channels=8, content_blocks=(1, 1), asr_channels=2)).eval()
    clips, folder = read_manifest(corpus), corpus.with_suffix(".store")
    for encoder in (graph, graph, other):
        training, _ = load_corpus(Decoded(open_store(folder), str(encoder)), clips)
        predict_mels(model, training, [0], 0)
    assert len(list(folder.glob("predicted-*.npy"))) == 2


def test_a_clip_may_have_a_name_that_is_not_utf8(graph: Path) -> None:
    wave = np.random.default_rng(0).integers(-999, 999, (64, OUTPUT_HOP)).astype(np.int16)
    source = SimpleNamespace(folder=Path(), entries=[], clip_wave=lambda entry: wave)
    mel, _ = Decoded(source, str(graph)).clip_disturbed(Entry("caf\udce9.wav", 0, 64))
    assert len(mel) == 64


@pytest.mark.slow
def test_a_model_is_trained_exported_and_used_with_it(corpus: Path, graph: Path, tmp_path: Path) -> None:
    store = f"corpus.store={corpus.with_suffix('.store')}"
    denoised = "model.denoiser_blocks=1", "model.denoiser_channels=8"
    train(tmp_path, CONVERSION, corpus, store, f"corpus.asr_encoder={graph}", *denoised, "optimizer.steps=4")
    (tmp_path / "run").rename(tmp_path / "conversion")
    conversion = f"conversion={tmp_path}/conversion/checkpoint.safetensors"
    with pytest.raises(InputError, match=r"conversion: needs ASR features; set corpus.asr_encoder"):
        train(tmp_path, VOCODER, corpus, store, conversion)
    train(tmp_path, VOCODER, corpus, store, conversion, f"corpus.asr_encoder={graph}", "optimizer.steps=2")
    checkpoints = tmp_path / "conversion" / "checkpoint.safetensors", tmp_path / "run" / "checkpoint.safetensors"
    folder = tmp_path / "model"
    export(*checkpoints, folder)
    assert (folder / "asr_encoder.onnx").read_bytes() == graph.read_bytes()
    clip = str(read_manifest(corpus)[0].path)
    onnx, modules = (load(folder, device, 1) for device in ("cpu", "torch"))
    waves = [converter.convert(clip, clip) for converter in (onnx, modules)]
    assert 10 * np.log10(np.square(waves[0]).mean() / np.square(waves[0] - waves[1]).mean()) > 60
    # Each weight is in the folder once.
    assert max(path.stat().st_size for path in folder.glob("*.onnx") if path.name != "vocoder.onnx") < 100_000
    own = Utterance.of(swelling(2.0))
    other = dataclasses.replace(own, wave=own.wave[::-1])  # the same mel: only the ASR features differ
    assert np.abs(onnx._engine.content(own).content - onnx._engine.content(other).content).max() > 0
    (folder / "asr_encoder.onnx").unlink()
    with pytest.raises(InputError, match="no such ASR encoder"):
        vconv.load(folder).convert(clip, clip)
    with pytest.raises(InputError, match="no such ASR encoder"):
        export(*checkpoints, tmp_path / "other", asr_encoder=tmp_path / "gone.onnx")


def test_a_model_takes_its_channels_from_the_recognizer(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.asr_channels: comes from the ASR encoder"):
        train(tmp_path, CONVERSION, corpus, "model.asr_channels=2", "optimizer.steps=1")


def test_a_recognizer_rests_on_frames_of_its_own(graph: Path) -> None:
    """Between two of its frames there is no step: features move as slowly as what they are of."""
    assert ASR_STRIDE != CODE_HOP
    features = AsrEncoder(graph)(swelling(3.0))[0, 2:-2]
    assert np.diff(features).std() < 1e-3
