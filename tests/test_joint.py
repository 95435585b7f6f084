"""Joint training of decoder and vocoder: what it learns, what it leaves alone, and what comes out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("onnxscript")

from tests.conftest import BASE_MODEL, REPOSITORY, Cli  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_recipes import script  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, scalars, train  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.frontends.ends import mirrored_end  # noqa: E402
from vconv.model_folder import ASR_ENCODER  # noqa: E402
from vconv.models.discriminators import LayerDiscriminators  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.discriminators import DiscriminatorConfig, Discriminators  # noqa: E402
from vconv.training.joint import mirrored_from, take_wave_discriminators  # noqa: E402
from vconv.training.learner import misplaced_pitch  # noqa: E402
from vconv.training.losses import discriminator_hinge  # noqa: E402
from vconv.training.optimizer import Ema  # noqa: E402
from vconv.training.trained import load_conversion, load_vocoder  # noqa: E402

GRAPH = BASE_MODEL / ASR_ENCODER
JOINT = f"""
task: joint
threads: 1
corpus: {{processes: 1, asr_encoder: {GRAPH}}}
layers: [0, 3]
speaker_layers: [0, 2]
discriminators: {{periods: [3], n_ffts: [256], width: 4}}
batch: {{items: 4, frames: 32, reference_frames: [32, 48], phone_items: 0}}
conversions: 2
broken_off: 0.5
waves: {{items: 2, frames: 12, context_frames: 4}}
losses: {{n_ffts: [512, 128], discriminators_alone: 20}}
optimizer: {{steps: 40, warmup: 5, learning_rate: 1.0e-3, ema: 0.9}}
log: {{every: 10, save_every: 20, validate_every: 40, held_out: 1, best: ""}}
"""


def test_a_discriminator_of_layers_separates_what_differs() -> None:
    torch.manual_seed(0)
    judge = LayerDiscriminators(channels=(12, 8), width=16)
    real = [torch.randn(4, 9, 12), torch.randn(4, 30, 8)]
    fake = [x.cumsum(dim=1) for x in real]  # as loud after the norm of each frame, but smoother
    assert [score.shape for score in judge(real)] == [(4, 1, 9), (4, 1, 30)]
    torch.testing.assert_close(judge(real), judge([3 * x for x in real]), atol=0.05, rtol=0.05)  # no matter of level
    optimizer = torch.optim.Adam(judge.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = discriminator_hinge(judge(real), judge(fake))
        loss.backward()
        optimizer.step()
    assert loss < 0.5


def test_misplaced_pitch_keeps_voicing_and_moves_a_share_of_the_curves() -> None:
    torch.manual_seed(0)
    pitch = torch.stack([torch.randn(200, 50) * 0.2, (torch.rand(200, 50) < 0.7).float()], dim=1)
    moved = misplaced_pitch(pitch, 0.4)
    assert torch.equal(moved[:, 1], pitch[:, 1])
    same = (moved == pitch).flatten(1).all(dim=1)
    assert 0.5 < same.float().mean() < 0.7
    middle = [(x[:, 0] * x[:, 1]).sum(dim=1) / x[:, 1].sum(dim=1) for x in (pitch, moved)]
    shift = (middle[1] - middle[0]).abs()
    assert 0.3 < shift.max() <= 0.4 + 1e-5
    assert torch.equal(misplaced_pitch(pitch, 0.0), pitch)


def test_speech_that_breaks_off_is_mirrored_after_its_end() -> None:
    mel = torch.arange(40.0).expand(2, 3, 40)
    cut = mirrored_from(mel, 20)
    assert cut.shape == (2, 3, 26)
    np.testing.assert_array_equal(cut, mirrored_end(mel[..., :20].numpy(), 6))  # as live conversion has it
    features = mel[..., ::2]
    np.testing.assert_array_equal(mirrored_from(features, 20, hop=2), mirrored_end(features[..., :10].numpy(), 3))
    assert mirrored_from(mel, 40) is mel


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("conversion=''", "conversion: joint training begins with a trained one; set conversion"),
        ("vocoder=''", "set vocoder"),
        ("speaker_encoder=''", "set speaker_encoder"),
        ("corpus.asr_encoder=''", "set corpus.asr_encoder"),
        ("conversions=5", "a batch has 4 items; use 1 to that many"),
        ("misplaced_pitch=1.5", "misplaced_pitch: 1.5 is no share of the conversions; use 0 to 1"),
        ("broken_off=-1", "broken_off: -1.0 is no share of the batches; use 0 to 1"),
        ("waves.narrow_share=1", "waves.narrow_share: leaves no full-band recording"),
        ("waves.frames=30", "raise it, or lower waves.frames"),
        ("waves.frames=18", "raise it, or lower waves.frames"),  # half of the speech of a batch that breaks off is 16
    ],
)
def test_what_is_missing_is_told_at_once(tmp_path: Path, setting: str, message: str) -> None:
    places = (f"{name}={tmp_path}" for name in ("conversion", "vocoder", "speaker_encoder"))
    with pytest.raises(InputError, match=message):
        train(tmp_path, JOINT, tmp_path / "none.tsv", *places, setting)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, speaker_encoder_file: Path) -> tuple[Path, list[str]]:
    """A manifest, and the settings with which a joint training begins: two models trained for a few steps."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    own = ("model.speaker=pretrained", f"speaker_encoder={speaker_encoder_file}", f"corpus.asr_encoder={GRAPH}")
    places = []
    for name, text, settings in (("conversion", CONVERSION, own), ("vocoder", VOCODER, own[2:])):
        folder = manifest.parent / name
        folder.mkdir()
        train(folder, text, manifest, "threads=1", "optimizer.steps=30", *settings)
        places.append(f"{name}={folder / 'run'}")
    return manifest, [*places, own[1]]


def test_discriminators_of_waves_go_on_from_the_vocoders_training(begun: tuple[Path, list[str]]) -> None:
    torch.manual_seed(0)
    fresh = Discriminators(DiscriminatorConfig(periods=(3,), n_ffts=(256,), width=4), channels=[8])
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    take_wave_discriminators(BASE_MODEL, fresh)  # which has none
    assert all(value.equal(before[name]) for name, value in fresh.state_dict().items())
    path = tmp_path_of(begun[1][1])
    take_wave_discriminators(path, fresh)
    trained = checkpoint.load(path / "checkpoint.safetensors")["discriminators"]
    for name, value in fresh.state_dict().items():
        assert value.equal(trained[name] if name.startswith("waves.") else before[name]), name


@pytest.mark.slow
def test_joint_training_learns(begun: tuple[Path, list[str]], tmp_path: Path, vconv_cli: Cli, clips: Path) -> None:
    manifest, settings = begun
    alone = [*settings, "broken_off=0", "log.every=5"]
    train(tmp_path, JOINT, manifest, *alone, "optimizer.steps=20")
    critic, anchor = scalars(tmp_path, "layer_critic"), scalars(tmp_path, "anchor")
    assert critic[-1] < 0.8 * critic[0] and not any(anchor)  # the discriminators train alone
    # From here on they stand still, so that what the models learn from them does not depend on what they learn.
    still = "optimizer.steps=50", "optimizer.critic_rate=0"
    state = train(tmp_path, JOINT, manifest, *alone, *still, resume=True)
    realism = scalars(tmp_path, "layer_realism")
    assert realism[-1] < realism[0] - 0.5
    first, place = load_conversion(tmp_path_of(settings[0])), tmp_path / "run"
    conversion, vocoder = load_conversion(place), load_vocoder(place)
    changed = {name for name, value in conversion.state_dict().items() if not value.equal(first.state_dict()[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    before, path = load_vocoder(tmp_path_of(settings[1])), place / "checkpoint.safetensors"
    assert not vocoder.head.weight.equal(before.head.weight)
    assert state["config"]["model"]["speaker"] == "pretrained"
    between = tmp_path / "between.safetensors"
    earlier = [setting.partition("=")[2] for setting in settings[:2]]
    assert (
        script(REPOSITORY / "recipes" / "average.py").main([*earlier, str(path), "--share", "0.5", "-o", str(between)])
        == 0
    )
    for load, one, other in ((load_conversion, first, conversion), (load_vocoder, before, vocoder)):
        for name, value in load(between).state_dict().items():
            middle = (one.state_dict()[name] + other.state_dict()[name]) / 2
            torch.testing.assert_close(value, middle.to(value.dtype))
    assert vconv_cli("export", place, place, "-o", tmp_path / "model").code == 0
    done = vconv_cli(
        "convert", clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / "x.wav", "--model", tmp_path / "model"
    )
    assert done.code == 0 and (tmp_path / "x.wav").exists()


@pytest.mark.slow
def test_a_resumed_joint_run_is_the_uninterrupted_one(
    begun: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, settings = begun
    short = [
        *settings,
        "losses.discriminators_alone=2",
        "log.save_every=1",
        "log.validate_every=100",
        "optimizer.steps=6",
    ]
    folders = tmp_path / "whole", tmp_path / "parts"
    for folder in folders:
        folder.mkdir()
    one = train(folders[0], JOINT, manifest, *short)
    count = Ema.update

    def die(self: Ema, module: torch.nn.Module, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt
        count(self, module, step)

    monkeypatch.setattr(Ema, "update", die)
    with pytest.raises(KeyboardInterrupt):
        train(folders[1], JOINT, manifest, *short)
    monkeypatch.setattr(Ema, "update", count)
    other = train(folders[1], JOINT, manifest, *short, resume=True)
    for part in ("learner", "discriminators", "ema"):
        for name, value in one[part].items():
            assert value.equal(other[part][name]), name


def tmp_path_of(setting: str) -> Path:
    return Path(setting.partition("=")[2])
