"""The ASR encoder that listens in training: its graph once more, with gradients, and what training makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

from tests.conftest import BASE_MODEL, REPOSITORY  # noqa: E402
from tests.synthetic import make_asr_encoder, make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, scalars, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.export.asr_encoder import LONGEST, asr_encoder_graph  # noqa: E402
from vconv.features import N_MELS, SAMPLE_RATE  # noqa: E402
from vconv.frontends.asr_encoder import AsrEncoder  # noqa: E402
from vconv.frontends.grid import CODE_HOP  # noqa: E402
from vconv.model_folder import ASR_ENCODER  # noqa: E402
from vconv.models.pretrained.moonshine import QUANTIZED, ROTATED, Moonshine, load_moonshine  # noqa: E402
from vconv.training.perceptual import Converted, PerceptualLosses, content_distance  # noqa: E402
from vconv.training.trained import load_vocoder  # noqa: E402

GRAPH = BASE_MODEL / ASR_ENCODER


@pytest.fixture(scope="module")
def moonshine() -> Moonshine:
    return load_moonshine(GRAPH)


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    wave, rate = soundfile.read(REPOSITORY / "examples" / "source.flac", dtype="float32")
    return audio.resample(wave, rate, SAMPLE_RATE).astype(np.float32)[: 4 * SAMPLE_RATE]


def test_it_hears_what_the_graph_hears(moonshine: Moonshine, spoken: np.ndarray) -> None:
    for samples in (len(spoken), 2 * SAMPLE_RATE + 77):  # whole frames of the code, and not
        wave = spoken[:samples]
        here, there = moonshine(torch.from_numpy(wave)[None])[0], torch.from_numpy(AsrEncoder(GRAPH)(wave))
        assert here.shape == there.shape == (288, -(-samples // CODE_HOP))
        middle = there.mean(dim=1, keepdim=True)
        alike = torch.cosine_similarity(here - middle, there - middle, dim=0)
        assert alike.mean() > 0.98 and alike.min() > 0.9  # the graph rounds to eight bits on its way
        # Later by a frame of the code it would be another matter.
        late = torch.cosine_similarity(here[:, 1:] - middle, there[:, :-1] - middle, dim=0)
        assert late.mean() < 0.95


def test_a_graph_of_it_is_the_module_in_8_bits(spoken: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    miniature = Moonshine(channels=288, hidden=16, layers=2, stride=384, centre=447).requires_grad_(False).eval()
    for value in miniature.parameters():
        if value.ndim == 1:  # the exporter stores equal ones once
            value.normal_(1.0, 0.1)
    onnx.save(asr_encoder_graph(miniature), tmp_path / "asr_encoder.onnx")
    graph, again = AsrEncoder(tmp_path / "asr_encoder.onnx"), load_moonshine(tmp_path / "asr_encoder.onnx")
    stored = onnx.load(tmp_path / "asr_encoder.onnx").graph.initializer
    weights = sum(parameter.numel() for parameter in miniature.parameters())
    tables = 2 * LONGEST * ROTATED // 2 * 4
    assert (tmp_path / "asr_encoder.onnx").stat().st_size < 1.1 * weights + tables  # bytes
    for samples in (len(spoken), SAMPLE_RATE // 2):
        wave = torch.from_numpy(spoken[:samples])[None]
        for found in (graph(spoken[:samples]), again(wave)[0].numpy()):
            assert np.corrcoef(found.ravel(), miniature(wave)[0].numpy().ravel())[0, 1] > 0.99
    for name, steps in {t.name: onnx.numpy_helper.to_array(t) for t in stored if t.name.endswith(QUANTIZED)}.items():
        if steps.ndim == 2:  # two neighbours' products fit into 16 bits, as many processors add them
            pairs = steps.astype(int).reshape(len(steps) // 2, 2, -1)
            for sign in (1, -1):
                assert 255 * np.clip(sign * pairs, 0, None).sum(axis=1).max() < 2**15, name
    for name, value in miniature.state_dict().items():
        rounded = again.state_dict()[name]
        assert (rounded - value).abs().max() <= (0.5 / 63 + 1e-4) * value.abs().max()
        assert value.ndim > 1 or rounded.equal(value)


def test_each_of_a_batch_is_heard_alone(moonshine: Moonshine, spoken: np.ndarray) -> None:
    waves = torch.from_numpy(spoken[: 3 * SAMPLE_RATE].reshape(3, -1))
    together = moonshine(waves)
    for k in range(3):
        torch.testing.assert_close(together[k : k + 1], moonshine(waves[k : k + 1]), atol=1e-3, rtol=1e-3)


def test_the_distance_of_words_is_none_to_themselves_and_grows(moonshine: Moonshine, spoken: np.ndarray) -> None:
    real = moonshine(torch.from_numpy(spoken)[None])
    assert content_distance(real, real) < 1e-6
    noise = np.random.default_rng(0).standard_normal(len(spoken)).astype(np.float32)
    waves = [spoken + level * noise for level in (0.003, 0.1)] + [spoken[::-1].copy()]
    near, far, other = (content_distance(moonshine(torch.from_numpy(wave)[None]), real) for wave in waves)
    assert near < 0.5 * far and far < other and 0.6 < other < 1.4


def test_what_is_heard_of_words_reaches_the_mel_and_nothing_else(moonshine: Moonshine) -> None:
    torch.manual_seed(0)
    vocoder = load_vocoder(BASE_MODEL)
    mel, pitch = torch.randn(2, N_MELS, 32) - 5, torch.stack([torch.zeros(32), torch.ones(32)]).expand(2, 2, 32)
    converted = (mel + 0.3 * torch.randn(mel.shape)).requires_grad_()
    perceptual = PerceptualLosses(vocoder, asr_encoder=moonshine)
    losses = perceptual(Converted(converted, pitch, mel.requires_grad_(), pitch), None)
    assert set(losses) == {"content_consistency"} and losses["content_consistency"] > 0
    losses["content_consistency"].backward()
    assert converted.grad.abs().sum() > 0 and mel.grad is None
    assert all(p.grad is None for p in [*moonshine.parameters(), *vocoder.parameters()])


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    make_asr_encoder(tmp_path / "toy.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    for name in ("toy", "text"):
        with pytest.raises(InputError, match=f"{name}.onnx: no ASR encoder of Moonshine's form"):
            load_moonshine(tmp_path / f"{name}.onnx")
    with pytest.raises(InputError, match=r"missing\.onnx: no such ASR encoder"):
        load_moonshine(tmp_path / "missing.onnx")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), sentences=3)


@pytest.fixture(scope="module")
def vocoder(corpus: Path) -> Path:
    train(corpus.parent, VOCODER, corpus, "optimizer.steps=1", f"corpus.store={corpus.parent / 'mel.store'}")
    return corpus.parent / "run" / "checkpoint.safetensors"


def test_a_vocoder_trains_with_discriminators_of_its_layers(corpus: Path, tmp_path: Path) -> None:
    settings = [f"corpus.store={corpus.parent / 'mel.store'}", f"loss_asr_encoder={GRAPH}", "batch.frames=24"]
    short = [*settings, "losses.adversarial_from=0", "optimizer.steps=20", "optimizer.critic_rate=3"]
    state = train(tmp_path, VOCODER, corpus, *short, "layers=[0, 2]")
    critic = scalars(tmp_path, "layer_critic")
    assert critic[-1] < critic[0] < 2.5  # 2 is chance
    assert np.isfinite(scalars(tmp_path, "layer_matching")).all()
    assert not any("asr" in name for name in state)
    assert {name.split(".")[2] for name in state["discriminators"] if name.startswith("layers.")} == {"0", "1"}
    with pytest.raises(InputError, match="layers: that encoder has 6; use 0 to 6"):
        train(tmp_path, VOCODER, corpus, *short, "layers=[7]", f"output={tmp_path / 'other'}")


def test_training_asks_for_words(corpus: Path, vocoder: Path, tmp_path: Path) -> None:
    settings = [
        f"vocoder={vocoder}",
        f"corpus.asr_encoder={GRAPH}",
        "losses.content_consistency=1",
        "losses.cycle_items=3",
    ]
    state = train(tmp_path, CONVERSION, corpus, *settings, "optimizer.steps=20")
    assert (
        len(scalars(tmp_path, "content_consistency")) == 2
        and np.isfinite(scalars(tmp_path, "content_consistency")).all()
    )
    assert not any("moonshine" in name or "asr_encoder" in name for name in state["learner"])


def test_another_recognizer_may_listen_than_the_one_that_is_heard_with(
    corpus: Path, vocoder: Path, tmp_path: Path
) -> None:
    store = f"corpus.store={corpus.parent / 'mel.store'}"
    settings = [f"vocoder={vocoder}", store, "losses.content_consistency=1", "losses.cycle_items=3"]
    state = train(tmp_path, CONVERSION, corpus, *settings, f"loss_asr_encoder={GRAPH}", "optimizer.steps=10")
    assert np.isfinite(scalars(tmp_path, "content_consistency")).all()
    assert state["config"]["model"]["asr_channels"] == 0


def test_words_need_a_vocoder_and_a_recognizer(corpus: Path, tmp_path: Path) -> None:
    for settings, missing in (((), "vocoder"), (("vocoder=x",), "corpus.asr_encoder")):
        with pytest.raises(InputError, match=f"set {missing}"):
            train(tmp_path, CONVERSION, corpus, "losses.content_consistency=1", *settings)
