"""Content encoder: log-mel to a content code at half the frame rate."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.denoiser import Denoiser
from vconv.models.layers import ChannelNorm, InstanceNorm, blocks, normalize_mel


class ContentEncoder(nn.Module):
    """ConvNeXt blocks with instance norm, halving the rate once: mel [B, N_MELS, T] -> [B, C, T / 2].

    T is even. With ``asr_channels``, ASR features [B, R, T / 2] are a second input, normalized and added where the rate
    is halved; zeros and None stand for none. With ``denoiser_blocks`` the mel is denoised first. The
    bottleneck that follows is a module of its own. Layer norm (``content_norm: channel``) instead lets what is constant
    over the utterance through, to see what instance norm does.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        fine, coarse = config.content_blocks
        width = config.channels
        norm = InstanceNorm if config.content_norm == "instance" else lambda: ChannelNorm(width)
        self.denoiser = Denoiser(config) if config.denoiser_blocks else None
        self.input = nn.Conv1d(N_MELS, width, 5, padding=2)
        self.fine = blocks(fine, width, config.expansion, norm)
        self.halve = nn.Conv1d(width, width, 4, stride=2, padding=1)
        if config.asr_channels:
            self.phonetic_norm = InstanceNorm()
            self.phonetic = nn.Conv1d(config.asr_channels, width, 1, bias=False)
        else:
            self.phonetic = None
        self.coarse = blocks(coarse, width, config.expansion, norm)
        self.norm = norm()
        self.output = nn.Conv1d(width, config.content_channels, 1)

    def forward(self, mel: Tensor, asr_features: Tensor | None = None) -> Tensor:
        if self.denoiser is not None:
            mel = self.denoiser(mel, asr_features)
        x = self.input(normalize_mel(mel))
        for block in self.fine:
            x = block(x)
        x = self.halve(x)
        if self.phonetic is not None and asr_features is not None:
            x = x + self.phonetic(self.phonetic_norm(asr_features))
        for block in self.coarse:
            x = block(x)
        return self.output(self.norm(x))
