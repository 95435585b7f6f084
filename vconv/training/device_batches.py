"""Batches of waves into batches of features on the training device, with the pretrained encoders' PyTorch twins."""

from __future__ import annotations

import torch
from torch import Tensor

from vconv.data.batches import BatchConfig, ConversionBatch, PhoneClips
from vconv.data.corpus import Corpus
from vconv.data.crops import Speech
from vconv.data.device.features import CONTEXT_FRAMES, at_places, log_mel, resample
from vconv.data.device.mels import perturb, warp
from vconv.data.device.sampler import DeviceBatch, DeviceSampler, Disturbances, Waves
from vconv.data.device.waves import faster, surround
from vconv.data.store import WAVE_SCALE
from vconv.features import HOP_LENGTH, OUTPUT_RATE, SAMPLE_RATE, frame_count
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine


class DeviceFeatures:
    """From what ``data.device.sampler.DeviceSampler`` draws to a ``ConversionBatch``.

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
    def __call__(self, drawn: DeviceBatch[Tensor]) -> ConversionBatch[Tensor]:
        octaves, factor = drawn.octaves, 2**drawn.octaves
        clean_wave = _narrow(*drawn.clean)
        reference_wave = _narrow(drawn.reference)
        clean, clean_features = self._features(clean_wave, self.context)
        reference, reference_features = self._features(reference_wave, CONTEXT_FRAMES)
        source = self._disturbed(drawn.source, drawn.disturbances, clean, clean_wave)
        phone_clips = None
        if (spoken := drawn.phone_clips) is not None:
            speech = self._disturbed(spoken.waves, spoken.disturbances, clean, clean_wave)
            phone_clips = PhoneClips(
                speech=_channels_first(*speech), frames=spoken.frames, phones=spoken.phones, counts=spoken.counts
            )
        moved = (octaves != 0)[:, None, None]
        clean, reference = (torch.where(moved, warp(mel, factor), mel) for mel in (clean, reference))
        return ConversionBatch(
            source=_channels_first(*source),
            clean=_channels_first(clean, clean_features),
            pitch=drawn.pitch,
            clean_pitch=drawn.clean_pitch,
            reference=_channels_first(reference, reference_features),
            speaker_embedding=self.speaker_encoder and self._embedding(reference_wave, factor),
            speaker=drawn.speaker,
            label=drawn.label,
            pseudo_labels=drawn.pseudo_labels,
            phone_clips=phone_clips,
        )

    def _features(self, wave: Tensor, context: int) -> tuple[Tensor, Tensor | None]:
        """Mel [B, T, N_MELS] and ASR features [B, R, T / 2] of waves [B, N] at 16 kHz, without their context."""
        end = frame_count(wave.shape[1]) - context
        mel = log_mel(wave)[:, context:end]
        return mel, self.asr_encoder and self.asr_encoder(wave)[:, :, context // 2 : end // 2]

    def _disturbed(
        self, waves: Waves[Tensor], drawn: Disturbances[Tensor], clean: Tensor, clean_wave: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Mel and ASR features of augmented speech; the clean speech of the batch may talk behind it."""
        wave = _narrow(*waves)
        mel, features = self._features(wave, self.context)
        if len(drawn.moved):
            voices = clean_wave[drawn.talker]
            fast = faster(wave[drawn.moved], drawn.rate)
            fast = surround(fast, drawn.surround, _repeated(voices, fast.shape[1]))
            mel[drawn.moved] = at_places(log_mel(fast), self._places(mel.shape[1], 1, drawn.rate))
            if self.asr_encoder is not None:
                rows = self.asr_encoder(fast).transpose(1, 2)
                rows = at_places(rows, self._places(features.shape[2], 2, drawn.rate))
                features[drawn.moved] = rows.transpose(1, 2)
        if features is not None:
            features = features.masked_fill(drawn.no_asr[:, None, None], 0.0)
        others = clean.repeat(1, -(-mel.shape[1] // clean.shape[1]), 1)
        return perturb(mel, drawn.perturb, others), features

    def _places(self, frames: int, hop: int, rate: Tensor) -> Tensor:
        """Where a crop's frames, ``hop`` mel frames long, lie in a wave that is ``rate`` [K] faster: [K, frames]"""
        return (self.context // hop + torch.arange(frames, device=rate.device)) / rate[:, None]

    def _embedding(self, wave: Tensor, factor: Tensor) -> Tensor:
        """Of the references [B, N], in voices so much higher: [B, V] of unit length"""
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


def _channels_first(mel: Tensor, asr_features: Tensor | None) -> Speech[Tensor]:
    """Mel [B, T, N_MELS] and ASR features [B, R, T / 2]"""
    return Speech(mel.transpose(1, 2), asr_features)


def _repeated(voices: Tensor, samples: int) -> Tensor:
    """Waves [B, K, N] repeated to so many samples."""
    return voices.repeat(1, 1, -(-samples // voices.shape[2]))[:, :, :samples]


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
