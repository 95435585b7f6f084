"""The networks as the torch modules that define them: for a GPU, and to hold the ONNX graphs against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vconv.errors import InputError
from vconv.frontends.asr_encoder import FolderAsrEncoder
from vconv.frontends.speaker_encoder import FolderSpeakerEncoder
from vconv.inference.engine import no_encoder
from vconv.model_folder import check_whole, encoder_files
from vconv.models import saved
from vconv.models.norm_statistics import NormStatistics
from vconv.voice import Reference


class TorchEngine:
    """Conversion model and vocoder of a model folder, in float32 on ``cuda`` or, for "torch", on the CPU.

    Raises:
        InputError: there is no such GPU, or a file of the folder is missing or wrong.
    """

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
        torch.set_num_threads(threads)
        self._device = torch.device("cpu" if device == "torch" else device)
        conversion, vocoder = saved.load(folder)
        config = conversion.config
        self.asr_features = FolderAsrEncoder(folder, config.asr_channels, threads)
        self._pretrained_speaker = (
            FolderSpeakerEncoder(folder, config.speaker_embedding_channels, threads)
            if config.speaker == "pretrained"
            else None
        )
        check_whole(folder, encoder_files(config))
        self._conversion, self._vocoder = conversion.to(self._device), vocoder.to(self._device)

    def content(self, mel: np.ndarray, asr_features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            code = self._conversion.encode(self._tensor(mel), self._tensor(asr_features))
        codes = np.zeros((0, code.z_q.shape[2]), np.int64) if code.codes is None else _array(code.codes)
        return _array(code.z_q), codes

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return _array(self._conversion.bottleneck.decode(torch.from_numpy(codes[None]).to(self._device)))

    def speaker(self, wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
        if not self._conversion.config.embeds_speakers:
            raise no_encoder()
        return self._run(self._conversion.speaker, self._pretrained_speaker(wave) if self._pretrained_speaker else mel)

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, embedding: np.ndarray, reference: Reference, adapter: np.ndarray
    ) -> np.ndarray:
        return self._run(self._conversion.decoder, content, pitch, embedding, reference.content, reference.mel, adapter)

    def content_with(
        self, mel: np.ndarray, asr_features: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        with self._normalized(statistics) as norms:
            content = self.content(mel, asr_features)[0]
        return content, _reported(norms)

    def decode_with(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        embedding: np.ndarray,
        reference: Reference,
        adapter: np.ndarray,
        statistics: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        with self._normalized(statistics) as norms:
            mel = self.decode(content, pitch, embedding, reference, adapter)
        return mel, _reported(norms)

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self._run(self._vocoder, mel, pitch, source, noise)

    def _normalized(self, statistics: np.ndarray | None) -> NormStatistics:
        if statistics is None:
            return NormStatistics()
        return NormStatistics(self._tensor(statistics), torch.ones(1, device=self._device))

    def _run(self, module: nn.Module, *inputs: np.ndarray) -> np.ndarray:
        """Output of a module for one utterance: the batch axis is put on and taken off here."""
        with torch.inference_mode():
            return _array(module(*map(self._tensor, inputs)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array[None], np.float32)).to(self._device)


def _reported(norms: NormStatistics) -> np.ndarray:
    return next(map(_array, norms.reported), np.zeros((2, 0), np.float32))


def _array(batch: Tensor) -> np.ndarray:
    return batch[0].cpu().numpy()
