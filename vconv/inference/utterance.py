"""What goes into an engine's encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vconv.features import log_mel


@dataclass(frozen=True)
class Utterance:
    """A stretch of speech at the reference loudness. The engine takes of it what its networks need."""

    wave: np.ndarray  # [N] at 16 kHz
    mel: np.ndarray  # [N_MELS, T], T even: of some frames of the wave, or of frames of silence after its end
    start: int = 0  # frame of the wave, even, with which the mel begins
    encoded: np.ndarray | None = None  # [R, T / 2] ASR features of the mel's frames, where they are known already

    @classmethod
    def of(cls, wave: np.ndarray) -> Utterance:
        """All whole pairs of frames of a wave [N]."""
        mel = log_mel(wave)
        return cls(wave, mel[:, : mel.shape[1] // 2 * 2])

    @property
    def frames(self) -> int:
        return self.mel.shape[1]

    def first(self, frames: int) -> Utterance:
        """The first so many frames, an even number; an encoder of the wave has all of it as context."""
        return replace(self, mel=self.mel[:, :frames])

    def asr_features(self, encoder: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """What an ASR encoder, [N] -> [R, F], makes of the frames: [R, T / 2]. After the wave the last is repeated."""
        rows = self.frames // 2
        if self.encoded is not None:
            return self.encoded[:, :rows]
        found = encoder(self.wave)[:, self.start // 2 :][:, :rows]
        return np.pad(found, ((0, 0), (0, rows - found.shape[1])), mode="edge")
