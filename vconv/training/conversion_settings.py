"""Settings of the conversion model's training, and which of them contradict one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vconv.config import Adversary, ConversionConfig, Precision
from vconv.data.batches import BatchConfig
from vconv.errors import InputError
from vconv.training.layerwise import PretrainConfig
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig


@dataclass(frozen=True)
class LossConfig:
    """Weights; a loss of weight 0 is not computed."""

    reconstruction: float = 10.0
    commitment: float = 0.25
    code_consistency: float = 0.5  # between the codes of the augmented or parallel source and of the clean target
    speaker: float = 0.5  # angular margin head on the embedding
    adversary: float = 0.1
    adversary_kind: Adversary = "reversal"
    adversary_from: int = 1000  # step
    adversary_label: str = "speaker"  # or another column of the manifest: sex, language, accent ...
    cpc: float = 0.0  # contrastive predictive coding (information.FuturePrediction)
    cpc_steps: int = 6  # code frames ahead, all from 1 on
    content_information: float = 0.0  # between speech and code, raised (information.ContentInformation)
    speaker_information: float = 0.0  # between code and embedding, lowered (information.SpeakerInformation)
    speaker_information_from: int = 1000  # step
    contractive: float = 0.0  # squared Jacobian of the content encoder (contractive.contractive_penalty)
    phones: float = 0.5
    pseudo_labels: float = 0.0  # predicted from each frame of the code: the manifest's column of that name
    speaker_embedding: float = 0.0  # pretrained mean embedding of the speaker, predicted from the embedding
    # Perceptual losses, on conversions through the vocoder: against the target's speaker and the source's content.
    speaker_similarity: float = 0.0
    content_consistency: float = 0.0
    cycle: float = 0.0  # converted mel encoded again: same content, the target's embedding
    cycle_items: int = 6  # conversions in a batch, for the cycle, the discriminator and the perceptual losses
    cycle_from: int = 3000  # step
    realism: float = 0.0  # patch discriminator on the mel
    realism_from: int = 4000  # step
    matching: float = 2.0  # its feature maps
    reference_dropout: float = 0.1  # share of items whose decoder has the embedding alone

    @property
    def has_adversary(self) -> bool:
        return self.adversary > 0 and self.adversary_kind != "off"

    @property
    def label(self) -> str:
        """The manifest's column that the adversary predicts."""
        return self.adversary_label if self.has_adversary else "speaker"

    def discriminates(self, step: int) -> bool:
        """Whether the discriminator is trained and used."""
        return self.realism > 0 and step >= self.realism_from

    @property
    def complete_from(self) -> int:
        """Step from which all losses are on: validations before that are no measure for those after it."""
        begins = {
            self.adversary_from: self.has_adversary,
            self.speaker_information_from: bool(self.speaker_information),
            self.cycle_from: bool(self.cycle and self.cycle_items),
            self.realism_from: bool(self.realism),
        }
        return max((step for step, on in begins.items() if on), default=0)

    @property
    def decodes(self) -> bool:
        """Whether any loss needs the decoder; without one, only the encoders train, several times faster."""
        return bool(self.reconstruction or self.realism or self.cycle or self.has_perceptual)

    def converts(self, step: int) -> bool:
        """Whether some items are converted: for the cycle, the discriminator or the perceptual losses.

        With a cycle, the others wait for ``cycle_from``.
        """
        if not self.cycle_items:
            return False
        return step >= self.cycle_from if self.cycle else self.discriminates(step) or self.has_perceptual

    @property
    def has_perceptual(self) -> bool:
        """Whether there are perceptual losses."""
        return bool(self.speaker_similarity or self.content_consistency)

    @property
    def needs_speaker_encoder(self) -> bool:
        """Whether a speaker encoder is needed."""
        return bool(self.speaker_embedding or self.speaker_similarity)


@dataclass(frozen=True)
class ConversionTraining:
    task: Literal["conversion"] = "conversion"
    output: str = "runs/conversion"
    start_from: str = ""  # a conversion checkpoint or a model folder, for the weights that fit
    robust_frontend: str = ""  # a robust_frontend checkpoint, for its denoiser
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    vocoder: str = ""  # a vocoder checkpoint or model folder: for perceptual losses, and sound in TensorBoard
    speaker_encoder: str = ""  # .safetensors: for `model.speaker: pretrained` and the losses that compare speakers
    loss_asr_encoder: str = ""  # ONNX file: for losses.content_consistency; default: corpus.asr_encoder
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()
    pretrain: PretrainConfig = PretrainConfig()
    batch: BatchConfig = BatchConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


def check_settings(config: ConversionTraining) -> None:
    """Raise InputError for settings that contradict one another."""
    if config.model.asr_channels and not config.corpus.asr_encoder:
        raise InputError("model.asr_channels: comes from the ASR encoder; set corpus.asr_encoder")
    steps, frames = config.losses.cpc_steps, config.batch.frames // 2
    if config.losses.cpc and not 0 < steps < frames:
        raise InputError(f"losses.cpc_steps: {steps}: a crop has {frames} code frames; use 1 to {frames - 1}")
    if config.losses.needs_speaker_encoder and not config.speaker_encoder:
        raise InputError(
            "losses.speaker_embedding, losses.speaker_similarity: need a speaker encoder; set speaker_encoder"
        )
    if config.model.speaker == "pretrained" and not config.speaker_encoder:
        raise InputError("model.speaker: speaker encoder: there is none; set speaker_encoder")
    if config.losses.has_perceptual and not config.vocoder:
        raise InputError("losses.speaker_similarity, losses.content_consistency: need a vocoder; set vocoder")
    if config.losses.content_consistency and not (config.loss_asr_encoder or config.corpus.asr_encoder):
        raise InputError("losses.content_consistency: needs an ASR encoder; set corpus.asr_encoder or loss_asr_encoder")
    if config.losses.has_perceptual and not config.losses.cycle_items:
        raise InputError(
            "losses.cycle_items: 0 leaves no conversions for losses.speaker_similarity and losses.content_consistency; "
            "use 1 or more"
        )
    if config.pretrain.steps and config.start_from:
        raise InputError("pretrain.steps: would overwrite the weights of start_from; use 0, or --from scratch")
    if config.batch.other_voice and config.model.speaker == "table":
        raise InputError("batch.other_voice: a table of speakers has no other voices; use model.speaker encoder, or 0")
