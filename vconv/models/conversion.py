"""The conversion model: content encoder, bottleneck, speaker encoder, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.models.bottleneck import Code, make_bottleneck
from vconv.models.content_encoder import ContentEncoder
from vconv.models.decoder import Decoder
from vconv.models.speaker_encoder import SpeakerEncoder


class ConversionModel(nn.Module):
    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        self.config = config
        self.content = ContentEncoder(config)
        self.bottleneck = make_bottleneck(config.content_channels, config.bottleneck)
        self.speaker = SpeakerEncoder(config)
        self.decoder = Decoder(config)

    def forward(self, source: Tensor, pitch: Tensor, target: Tensor) -> Tensor:
        """Source mel [B, N_MELS, T], pitch [B, 2, T], target mel [B, N_MELS, T'] -> converted mel [B, N_MELS, T]."""
        return self.decoder(self.encode(source).z_q, pitch, self.speaker(target))

    def encode(self, mel: Tensor) -> Code:
        """Content code of a mel, without training side effects."""
        return self.bottleneck.encode(self.content(mel))
