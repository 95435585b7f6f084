"""The networks as the torch modules that define them: for a GPU, and to hold the ONNX graphs against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vconv.equalizer import equalized
from vconv.errors import InputError
from vconv.inference.correction import corrected
from vconv.inference.engine import Decoded, Encoded, FolderEncoders, conditioning
from vconv.inference.utterance import Utterance
from vconv.model_folder import check_whole, encoder_files
from vconv.models import saved
from vconv.models.norm_statistics import NormStatistics
from vconv.voice import Voice


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
        self._encoders = FolderEncoders(folder, config, threads)
        check_whole(folder, encoder_files(config))
        self._conversion, self._vocoder = conversion.to(self._device), vocoder.to(self._device)

    def asr_features(self, utterance: Utterance) -> np.ndarray | None:
        return self._encoders.asr_features(utterance)

    def content(self, utterance: Utterance, statistics: np.ndarray | None = None, share: float = 1.0) -> Encoded:
        asr_features = self.asr_features(utterance)
        with torch.inference_mode(), self._normalized(statistics, share) as norms:
            optional = [] if asr_features is None else [self._tensor(asr_features)]
            code = self._conversion.encode(self._tensor(utterance.mel), *optional)
        return Encoded(_array(code.z_q), None if code.codes is None else _array(code.codes), _reported(norms))

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return _array(self._conversion.bottleneck.decode(torch.from_numpy(codes[None]).to(self._device)))

    def speaker(self, utterance: Utterance) -> np.ndarray:
        pretrained = self._encoders.speaker_embedding(utterance)
        return self._run(self._conversion.speaker, utterance.mel if pretrained is None else pretrained)

    def decode(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        voice: Voice,
        statistics: np.ndarray | None = None,
        share: float = 1.0,
    ) -> Decoded:
        inputs = conditioning(voice, self._conversion.config).values()
        with self._normalized(statistics, share) as norms:
            mel = self._run(self._conversion.decoder, content, pitch, *inputs)
        return Decoded(corrected(mel, voice), _reported(norms))

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return equalized(self._run(self._vocoder, mel, pitch, source, noise), mel)

    def _normalized(self, statistics: np.ndarray | None, share: float) -> NormStatistics:
        if statistics is None:
            return NormStatistics()
        return NormStatistics(self._tensor(statistics), torch.full((1,), share, device=self._device))

    def _run(self, module: nn.Module, *inputs: np.ndarray) -> np.ndarray:
        """Output of a module for one utterance: the batch axis is put on and taken off here."""
        with torch.inference_mode():
            return _array(module(*map(self._tensor, inputs)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array[None], np.float32)).to(self._device)


def _reported(norms: NormStatistics) -> np.ndarray | None:
    return next(map(_array, norms.reported), None)


def _array(batch: Tensor) -> np.ndarray:
    return batch[0].cpu().numpy()
