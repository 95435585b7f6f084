"""Settings of the joint training of decoder and vocoder, and which of them contradict one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vconv.config import ConversionConfig, Precision, VocoderConfig
from vconv.data.batches import BatchConfig
from vconv.data.wave_batches import WaveBatchConfig
from vconv.errors import InputError
from vconv.training.discriminators import DiscriminatorConfig
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig


@dataclass(frozen=True)
class JointLossConfig:
    """Weights. The first ``discriminators_alone`` steps train the discriminators alone."""

    reconstruction: float = 1.0  # mel of the own voice, against the recording's
    anchor: float = 0.5  # mel of conversions, against that of the decoder as it was
    speaker_similarity: float = 2.5
    content_consistency: float = 4.0
    spectral: float = 1.0  # of the vocoder's copies of recordings
    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    matching: float = 1.5  # feature maps of the wave discriminators, of copies and recordings
    copy_features: float = 1.5  # feature maps of the speaker encoder, likewise
    realism: float = 0.3  # by the wave discriminators, of copies and of conversions
    layer_realism: float = 1.0  # by the discriminators of the encoders' layers, of conversions
    reference_dropout: float = 0.1  # share of items whose decoder has the embedding alone
    discriminators_alone: int = 100


@dataclass(frozen=True)
class JointTraining:
    task: Literal["joint"] = "joint"
    output: str = "runs/joint"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    conversion: str = ""  # a conversion checkpoint or model folder to begin with
    vocoder: str = ""  # likewise
    speaker_encoder: str = ""  # .safetensors: for losses.speaker_similarity and `model.speaker: pretrained`
    loss_asr_encoder: str = ""  # ONNX file; default: corpus.asr_encoder
    layers: tuple[int, ...] = (0, 2, 4, 6)  # of the ASR encoder that have a discriminator; 0: its convolutions
    speaker_layers: tuple[int, ...] = (
        0,
        1,
        2,
        3,
    )  # likewise of the speaker encoder; 0: its 2-D convolutions
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()  # both as they were trained: what is set here is not used
    vocoder_model: VocoderConfig = VocoderConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    batch: BatchConfig = BatchConfig()
    conversions: int = 6  # of a batch's items
    misplaced_pitch: float = 0.0  # share of the conversions whose F0 lies beside the target's register
    broken_off: float = 0.0  # share of the batches whose speech breaks off, its end mirrored, as in live conversion
    waves: WaveBatchConfig = WaveBatchConfig()
    losses: JointLossConfig = JointLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


def check_settings(config: JointTraining) -> None:
    """Raise InputError for settings that are missing or impossible."""
    for name in ("conversion", "vocoder", "speaker_encoder"):
        if not getattr(config, name):
            raise InputError(f"{name}: joint training begins with a trained one; set {name}")
    if not config.corpus.asr_encoder:
        raise InputError("corpus.asr_encoder: joint training needs the conversion model's; set corpus.asr_encoder")
    if not 0 <= config.misplaced_pitch <= 1:
        raise InputError(f"misplaced_pitch: {config.misplaced_pitch} is no share of the conversions; use 0 to 1")
    if not 0 <= config.broken_off <= 1:
        raise InputError(f"broken_off: {config.broken_off} is no share of the batches; use 0 to 1")
    if not 0 < config.conversions <= config.batch.items:
        raise InputError(
            f"conversions: {config.conversions}: a batch has {config.batch.items} items; use 1 to that many"
        )
    if round(config.waves.items * config.waves.narrow_share) >= config.waves.items:
        raise InputError("waves.narrow_share: leaves no full-band recording to compare conversions with; lower it")
    least = config.batch.frames // 2 if config.broken_off else config.batch.frames
    if config.batch.frames < config.waves.frames + 2 * config.waves.context_frames or least < config.waves.frames:
        raise InputError("batch.frames: shorter than the vocoder's crops; raise it, or lower waves.frames")
