"""Models with each bottleneck and each way to condition: trained for a moment, exported, and used by both engines."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Cli, speech
from vconv.config import BottleneckConfig, VocoderConfig
from vconv.data.manifest import read_manifest
from vconv.features import N_MELS, SAMPLE_RATE
from vconv.inference.engine import OnnxEngine
from vconv.inference.utterance import Utterance
from vconv.model_folder import read_config, record_digests
from vconv.voice import Voice

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
onnx = pytest.importorskip("onnx")

from tests.synthetic import SPEAKERS, make_corpus  # noqa: E402
from tests.test_models import SMALL  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv import export  # noqa: E402
from vconv.data.store import build  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.inference.torch_engine import TorchEngine  # noqa: E402
from vconv.models import saved  # noqa: E402
from vconv.models.conversion import ConversionModel  # noqa: E402
from vconv.models.vocoder import Vocoder  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.trained import load_conversion  # noqa: E402

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

KINDS = {
    "identity": BottleneckConfig("identity"),
    "sparse": BottleneckConfig("sparse"),
    "k-sparse": BottleneckConfig("sparse", active=3),
    "vae": BottleneckConfig("vae", warmup=10),
    "vq": BottleneckConfig("vq", codes=16),
    "residual": BottleneckConfig("vq", codes=8, quantizers=3),
    "gumbel": BottleneckConfig("gumbel", codes=16, warmup=10),
    "binary": BottleneckConfig("binary", codes=8),
    "fsq": BottleneckConfig("fsq", levels=(5, 4, 3)),
}


def overrides(config: BottleneckConfig) -> list[str]:
    """What makes a configuration's bottleneck this one."""
    values = dataclasses.asdict(config)
    return [f"model.bottleneck.{key}={list(v) if isinstance(v, tuple) else v}" for key, v in values.items()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose feature store is built."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    build(read_manifest(manifest), manifest.with_suffix(".store"))
    return manifest


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_trains(corpus: Path, tmp_path: Path, name: str) -> None:
    settings = ("optimizer.steps=16", "log.every=4", "log.validate_every=16", *overrides(KINDS[name]))
    state = train(tmp_path, CONVERSION, corpus, *settings)
    losses = scalars(tmp_path, "reconstruction")
    assert losses[-1] < 0.8 * losses[0]
    assert len(scalars(tmp_path, "validation")) == 1
    assert all(torch.isfinite(value).all() for value in state["learner"].values() if value.is_floating_point())
    model = load_conversion(tmp_path / "run" / "checkpoint.safetensors")
    assert model.config.bottleneck == KINDS[name]
    code = model.encode(torch.randn(1, N_MELS, 40))
    if code.codes is not None:
        torch.testing.assert_close(model.bottleneck.decode(code.codes), code.z_q)


@pytest.mark.parametrize("name", ["vae", "gumbel"])
def test_what_changes_in_the_course_of_a_training_is_the_same_after_a_kill(
    corpus: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vconv.training.optimizer as optimizer

    settings = ("optimizer.steps=5", "log.save_every=3", "log.validate_every=100", *overrides(KINDS[name]))
    settings += ("model.speaker=table", "model.conditioning=concat", "model.content_norm=channel")
    folders = [tmp_path / part for part in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = train(folders[0], CONVERSION, corpus, *settings)
    original = optimizer.Ema.update

    def die(self: object, module: torch.nn.Module, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt
        original(self, module, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(optimizer.Ema, "update", die)
        train(folders[1], CONVERSION, corpus, *settings)
    assert checkpoint.load(folders[1] / "run" / "checkpoint.safetensors")["step"] == 3
    resumed = train(folders[1], CONVERSION, corpus, *settings, resume=True)
    for state in ("learner", "ema"):
        for key, value in whole[state].items():
            torch.testing.assert_close(resumed[state][key], value, rtol=0, atol=1e-6, equal_nan=True)


def test_a_table_learns_a_row_and_the_register_of_each_speaker(corpus: Path, tmp_path: Path) -> None:
    settings = ("optimizer.steps=2", "log.validate_every=2", "losses.cycle=0.5", "losses.cycle_from=0")
    train(tmp_path, CONVERSION, corpus, "model.speaker=table", *settings)  # validation has its speakers as well
    model = load_conversion(tmp_path / "run" / "checkpoint.safetensors")
    assert model.config.speakers == tuple(sorted(SPEAKERS))
    # All of them say every sentence in the same melody, of 110 to 220 Hz.
    assert (model.speaker.log_f0 > -1).all() and (model.speaker.log_f0 < 0.2).all()
    assert np.ptp(model.speaker.log_f0.numpy()) < 0.05
    assert (model.speaker.log_f0_spread > 0.02).all()

    text = corpus.read_text().replace("\tlow\t", "\tbass\t")
    other = corpus.with_name("other.tsv")
    other.write_text(text)
    with pytest.raises(InputError, match="has other speakers than the manifest"):
        store = f"corpus.store={corpus.with_suffix('.store')}"
        train(tmp_path, CONVERSION, other, "model.speaker=table", store, *settings, resume=True)


# ---------------------------------------------------------------- both engines


def with_bottleneck(folder: Path, small_model: Path, bottleneck: BottleneckConfig) -> Path:
    """The miniature model with another bottleneck, of random weights."""
    shutil.copytree(small_model, folder)
    for graph in folder.glob("*.onnx"):
        onnx.save(onnx.load(graph), graph)  # with its weights in it: those beside it change
    old, vocoder = saved.load(small_model)
    torch.manual_seed(0)
    model = ConversionModel(dataclasses.replace(old.config, bottleneck=bottleneck))
    model.bottleneck.train()(torch.randn(4, old.config.content_channels, 100))  # codebooks begin with the first batch
    saved.round_weights(model.eval())
    saved.save(folder, model, vocoder)
    (folder / "tokens.onnx").unlink(missing_ok=True)
    found = export.networks(model, vocoder)
    for name in {"content", "tokens"} & found.keys():
        onnx.save(export.trace(found[name]), folder / f"{name}.onnx")
    record_digests(folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_both_engines_agree_on_each_kind(name: str, small_model: Path, tmp_path: Path, vconv_cli: Cli) -> None:
    folder = with_bottleneck(tmp_path / "model", small_model, KINDS[name])
    engines = OnnxEngine(folder, 1), TorchEngine(folder, "torch", 1)
    mel = np.random.default_rng(0).normal(-6, 2, (N_MELS, 100)).astype(np.float32)
    first, second = (engine.content(Utterance(speech(1.6), mel)) for engine in engines)
    rows, same = KINDS[name].codes_per_frame, np.full(50, True)
    if rows:
        assert first.codes.shape == second.codes.shape == (rows, 50)
        # Where rounding tells two codes apart, it does so for a frame or two; those differ altogether.
        same = (first.codes == second.codes).all(axis=0)
        assert same.mean() > 0.95
        for engine in engines:
            np.testing.assert_allclose(engine.content_of(first.codes), first.content, atol=2e-5)
    else:
        assert first.codes is second.codes is None
    np.testing.assert_allclose(first.content[:, same], second.content[:, same], atol=2e-4)
    assert first.content.std() > 1e-3

    source, features = tmp_path / "src.wav", tmp_path / "features.npz"
    from vconv import audio

    audio.write(source, speech(1.2), SAMPLE_RATE)
    done = vconv_cli("extract", source, "-o", features, "--model", folder, "--threads", 1)
    assert done.code == 0, done.err
    with np.load(features) as arrays:
        assert set(arrays) == ({"codes", "f0"} if rows else {"f0"})
    told = vconv_cli("info", "--model", folder).out
    assert f"{rows} of {KINDS[name].code_values} values a frame" in told if rows else "continuous" in told


def test_the_codes_of_the_first_stages_are_a_coarser_code(small_model: Path, tmp_path: Path, vconv_cli: Cli) -> None:
    """Half of the bits for half of the stages, and decoded as if the other stages said nothing, by both engines."""
    import vconv

    bottleneck = BottleneckConfig("vq", codes=16, quantizers=2, soft_temperature=0.2)
    folder = with_bottleneck(tmp_path / "model", small_model, bottleneck)
    onnx_model, torch_model = (vconv.load(folder, device, threads=1) for device in ("cpu", "torch"))
    source = (speech(2.0), SAMPLE_RATE)
    whole, coarse = onnx_model.encode(source), onnx_model.encode(source, stages=1)
    assert (len(whole.codes), len(coarse.codes)) == (4, 2)
    np.testing.assert_array_equal(coarse.codes, whole.codes[:2])
    assert coarse.size.tokens == pytest.approx(whole.size.tokens / 2, abs=8)
    first = onnx_model._engine.content_of(np.pad(coarse.codes, ((0, 2), (0, 0)), constant_values=-1))
    model = saved.load(folder)[0]
    with torch.no_grad():
        expected = model.bottleneck.decode(torch.from_numpy(coarse.codes)[None])[0]
    np.testing.assert_allclose(first, expected, atol=1e-5)
    waves = [converter.decode(tokens) for converter in (onnx_model, torch_model) for tokens in (coarse, whole)]
    np.testing.assert_allclose(waves[0], waves[2], atol=1e-3)
    assert np.abs(waves[0] - waves[1]).max() > 1e-3
    with pytest.raises(InputError, match="use 1 to 2"):
        onnx_model.encode(source, stages=3)
    with pytest.raises(InputError, match="has 3 codes a frame, this model has 4"):
        onnx_model.decode(dataclasses.replace(whole, codes=whole.codes[:3]))

    from vconv import audio

    audio.write(tmp_path / "src.wav", *source)
    done = vconv_cli("encode", tmp_path / "src.wav", "--stages", 1, "--text", "--model", folder)
    assert done.code == 0, done.err
    assert ".b" in (line := (tmp_path / "src_tokens.txt").read_text()) and ".c" not in line
    done = vconv_cli("encode", tmp_path / "src.wav", "--stages", 0, "--model", folder)
    assert done.code == 2 and "stages: 0 are impossible" in done.error


# ---------------------------------------------------------------- a table of speakers, concatenation


@pytest.fixture(scope="module")
def table_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights that knows three speakers, conditioned by concatenation."""
    torch.manual_seed(0)
    conversion = dataclasses.replace(
        SMALL,
        attention_channels=0,
        bottleneck=KINDS["fsq"],
        content_norm="channel",
        conditioning="concat",
        speaker="table",
        speakers=("ann", "p225/b", "P225 b"),
    )
    model = ConversionModel(conversion)
    model.speaker.log_f0.copy_(torch.tensor([-0.75, 0.25, torch.nan]))
    model.speaker.log_f0_spread.copy_(torch.tensor([0.125, 0.25, torch.nan]))
    folder = tmp_path_factory.mktemp("table") / "model"
    export.write_model(folder, model, Vocoder(dataclasses.replace(VocoderConfig(), channels=16, blocks=1)))
    return folder


def test_export_writes_a_voice_for_each_speaker(table_model: Path) -> None:
    assert {path.name for path in (table_model / "voices").iterdir()} == {"ann.npz", "p225_b.npz", "P225_b_.npz"}
    assert not (table_model / "speaker.onnx").exists()
    ann, unknown = (Voice.load(table_model / "voices" / f"{name}.npz") for name in ("ann", "P225_b_"))
    assert (ann.log_f0, ann.log_f0_spread) == (-0.75, 0.125)
    assert unknown.log_f0 is None and unknown.log_f0_spread is None
    rows = saved.load(table_model)[0].speaker(torch.arange(3)).detach().numpy()
    np.testing.assert_allclose(np.stack([ann.embedding, unknown.embedding]), rows[[0, 2]], atol=1e-6)


def test_conversion_to_the_voices_of_a_table_and_to_no_clip(table_model: Path, clips: Path, vconv_cli: Cli) -> None:
    from vconv import audio

    results = {}
    for device in ("cpu", "torch"):
        for name in ("ann", "p225_b"):
            output, voice = clips / f"{name}_{device}.wav", table_model / "voices" / f"{name}.npz"
            options = "--model", table_model, "--device", device, "--threads", 1
            done = vconv_cli("convert", clips / "src.wav", "--target", voice, "-o", output, *options)
            assert done.code == 0, done.err
            results[name, device] = audio.read(output, None)[0]
    for name in ("ann", "p225_b"):
        np.testing.assert_allclose(results[name, "cpu"], results[name, "torch"], atol=2e-3)
    assert np.abs(results["ann", "cpu"] - results["p225_b", "cpu"]).max() > 0.01
    for device in ("cpu", "torch"):
        options = "--model", table_model, "--device", device
        done = vconv_cli("convert", clips / "src.wav", "--target", clips / "low.wav", *options)
        assert done.code == 2 and "has a table of its training speakers" in done.error and "voices/" in done.error


def test_a_decoder_without_adain_is_not_tuned(table_model: Path) -> None:
    from vconv.training import finetune

    assert read_config(table_model)[0].adapter_shape == (0, 0)
    with pytest.raises(InputError, match="no scales and shifts to tune"):
        finetune.load_model(table_model, 1)
