"""Batches of waves into batches of features on the training device, with the pretrained encoders' PyTorch twins."""

from __future__ import annotations

import torch
from torch import Tensor

from vconv.data.batches import BatchConfig
from vconv.data.corpus import Corpus
from vconv.data.device.features import CONTEXT_FRAMES, at_places, log_mel, resample
from vconv.data.device.mels import perturb, warp
from vconv.data.device.sampler import DeviceSampler
from vconv.data.device.waves import faster, surround
from vconv.data.store import WAVE_SCALE
from vconv.features import HOP_LENGTH, N_MELS, OUTPUT_RATE, SAMPLE_RATE, frame_count
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine

Batch = dict[str, Tensor]


class DeviceFeatures:
    """From what ``data.device.sampler.DeviceSampler`` draws to the fields of a ``ConversionBatch``, as tensors.

    Args:
        context: frames on each side of source and clean speech.
        other_octaves: by which voices are moved at most.
        asr_encoder: for ASR features; without one there are none.
        speaker_encoder: for the references' pretrained embeddings; without one there are none.
    """

    def __init__(
        self,
        context: int,
        other_octaves: float,
        asr_encoder: Moonshine | None = None,
        speaker_encoder: CamPlusPlus | None = None,
    ) -> None:
        self.context, self.other_octaves = context, other_octaves
        self.asr_encoder, self.speaker_encoder = asr_encoder, speaker_encoder

    @torch.no_grad()
    def __call__(self, drawn: Batch) -> Batch:
        """Mels [B, N_MELS, T], ASR features [B, R, T / 2] and embeddings [B, V], beside what was drawn with them."""
        octaves, factor = drawn["octaves"], 2 ** drawn["octaves"]
        clean_wave = _narrow(drawn["clean_wave"], drawn["clean_inside"])
        reference_wave = _narrow(drawn["reference_wave"])
        clean, clean_features = self._features(clean_wave, self.context)
        reference, reference_features = self._features(reference_wave, CONTEXT_FRAMES)
        source, source_features = self._disturbed(drawn, "source", clean, clean_wave)
        phone, phone_features = self._disturbed(drawn, "phone", clean, clean_wave)
        moved = (octaves != 0)[:, None, None]
        clean, reference = (torch.where(moved, warp(mel, factor), mel) for mel in (clean, reference))
        names = ("pitch", "clean_pitch", "speaker", "source_speaker", "label", "pseudo_labels")
        return {name: drawn[name] for name in (*names, "phone_frames", "phones", "phone_counts")} | {
            "source": source.transpose(1, 2),
            "source_asr_features": source_features,
            "clean": clean.transpose(1, 2),
            "clean_asr_features": clean_features,
            "reference": reference.transpose(1, 2),
            "reference_asr_features": reference_features,
            "speaker_embedding": self._embedding(reference_wave, factor),
            "phone_mel": phone.transpose(1, 2),
            "phone_asr_features": phone_features,
        }

    def _features(self, wave: Tensor, context: int) -> tuple[Tensor, Tensor]:
        """Mel [B, T, N_MELS] and ASR features [B, R, T / 2] of waves [B, N] at 16 kHz, without their context."""
        frames = frame_count(wave.shape[1]) - 2 * context
        mel = log_mel(wave)[:, context : context + frames]
        return mel, self._asr(wave)[:, :, context // 2 : (context + frames) // 2]

    def _asr(self, wave: Tensor) -> Tensor:
        """[B, R, ceil(T / 2)]; R is 0 without an ASR encoder"""
        if self.asr_encoder is None:
            return wave.new_zeros(len(wave), 0, -(-frame_count(wave.shape[1]) // 2))
        return self.asr_encoder(wave)

    def _disturbed(self, drawn: Batch, name: str, clean: Tensor, clean_wave: Tensor) -> tuple[Tensor, Tensor]:
        """Mel and ASR features of augmented speech; the clean speech of the batch may talk behind it."""
        wave = _narrow(drawn[f"{name}_wave"], drawn[f"{name}_inside"])
        if not len(wave):
            channels = self.asr_encoder.channels if self.asr_encoder else 0
            return clean.new_zeros(0, 0, N_MELS), clean.new_zeros(0, channels, 0)
        mel, features = self._features(wave, self.context)
        moved = drawn[f"{name}_moved"]
        if len(moved):
            rate = drawn[f"{name}_rate"]
            voices = clean_wave[drawn[f"{name}_talker"]]
            fast = faster(wave[moved], rate)
            fast = surround(fast, _under(drawn, f"{name}_surround."), _repeated(voices, fast.shape[1]))
            mel[moved] = at_places(log_mel(fast), self._places(mel.shape[1], 1, rate))
            if self.asr_encoder is not None:
                rows = at_places(self._asr(fast).transpose(1, 2), self._places(features.shape[2], 2, rate))
                features[moved] = rows.transpose(1, 2)
        others = clean.repeat(1, -(-mel.shape[1] // clean.shape[1]), 1)
        features = features.masked_fill(drawn[f"{name}_no_asr"][:, None, None], 0.0)
        return perturb(mel, _under(drawn, f"{name}_perturb."), others), features

    def _places(self, frames: int, hop: int, rate: Tensor) -> Tensor:
        """Where a crop's frames, ``hop`` mel frames long, lie in a wave that is ``rate`` [K] faster: [K, frames]"""
        return (self.context // hop + torch.arange(frames, device=rate.device)) / rate[:, None]

    def _embedding(self, wave: Tensor, factor: Tensor) -> Tensor:
        """Of the references [B, N], in voices so much higher: [B, V] of unit length"""
        if self.speaker_encoder is None:
            return wave.new_zeros(len(wave), 0)
        inner = wave[:, CONTEXT_FRAMES * HOP_LENGTH : -CONTEXT_FRAMES * HOP_LENGTH]
        if self.other_octaves:
            moved = faster(inner, factor)[:, : int(inner.shape[1] / 2**self.other_octaves)]
            still = (factor == 1)[:, None]
            inner = torch.where(still, inner[:, : moved.shape[1]], moved)
        return self.speaker_encoder(inner)


def _narrow(steps: Tensor, inside: Tensor | None = None) -> Tensor:
    """Waves [B, N] int16 at 24 kHz as float32 at 16 kHz; silent but for the frames ``inside`` [B, 2], from and to.

    Resampling rings around the ends of a clip, which the clip's own resampled wave does not hold.
    """
    wave = resample(steps.float() / WAVE_SCALE, OUTPUT_RATE, SAMPLE_RATE)
    if inside is None:
        return wave
    frame = torch.arange(wave.shape[1], device=wave.device) // HOP_LENGTH
    return wave * ((frame >= inside[:, :1]) & (frame < inside[:, 1:]))


def _repeated(voices: Tensor, samples: int) -> Tensor:
    """Waves [B, K, N] repeated to so many samples."""
    return voices.repeat(1, 1, -(-samples // voices.shape[2]))[:, :, :samples]


def _under(drawn: Batch, prefix: str) -> Batch:
    return {name.removeprefix(prefix): value for name, value in drawn.items() if name.startswith(prefix)}


def device_input(
    corpus: Corpus, config: BatchConfig, seed: int, asr_encoder: str, speaker_encoder: str, device: torch.device
) -> tuple[DeviceSampler, DeviceFeatures]:
    """What draws batches of waves, and what makes features of them.

    Args:
        asr_encoder: ONNX file, or empty.
        speaker_encoder: safetensors file, or empty.

    Raises:
        InputError: one of them is damaged, or the ASR encoder not of Moonshine's form.
    """
    sampler = DeviceSampler(corpus, config, seed)
    asr = load_moonshine(asr_encoder).to(device) if asr_encoder else None
    voices = load_campplus(speaker_encoder).to(device) if speaker_encoder else None
    other_octaves = config.other_octaves if config.other_voice else 0.0
    return sampler, DeviceFeatures(sampler.context, other_octaves, asr, voices)
