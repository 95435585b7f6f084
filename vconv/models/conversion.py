"""The conversion model: content encoder, bottleneck, speaker encoder, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.models.bottleneck import Code, make_bottleneck
from vconv.models.content_encoder import ContentEncoder
from vconv.models.decoder import Decoder
from vconv.models.speaker_encoder import SpeakerEncoder, SpeakerProjection
from vconv.models.speaker_table import SpeakerTable

SPEAKERS = {"encoder": SpeakerEncoder, "pretrained": SpeakerProjection, "table": SpeakerTable}


class ConversionModel(nn.Module):
    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        self.config = config
        self.content = ContentEncoder(config)
        self.bottleneck = make_bottleneck(config.content_channels, config.bottleneck)
        self.speaker = SPEAKERS[config.speaker](config)
        self.decoder = Decoder(config)

    def forward(
        self,
        source: Tensor,
        pitch: Tensor,
        target: Tensor,
        speaker: Tensor | None = None,
        source_asr_features: Tensor | None = None,
        target_asr_features: Tensor | None = None,
    ) -> Tensor:
        """Source mel [B, N_MELS, T], pitch [B, 2, T], target mel [B, N_MELS, 2K] -> converted mel [B, N_MELS, T].

        ``speaker``: number [B] with `speaker: table`, speaker embedding [B, V] with `speaker: pretrained`. The ASR
        features of both, [B, R, T / 2] and [B, R, K], are optional.
        """
        embedding, content = self.embed(target, speaker), self.encode(target, target_asr_features).z_q
        return self.decoder(self.encode(source, source_asr_features).z_q, pitch, embedding, content, target)

    def embed(self, mel: Tensor, speaker: Tensor | None) -> Tensor:
        """Embedding [B, E] of a mel [B, N_MELS, T], of a pretrained embedding [B, V] or of a number [B] in a table."""
        return self.speaker(mel if self.config.speaker == "encoder" else speaker)

    def encode(self, mel: Tensor, asr_features: Tensor | None = None) -> Code:
        """Content code of a mel [B, N_MELS, T] and an ASR encoder's features [B, R, T / 2], without side effects."""
        return self.bottleneck.encode(self.content(mel, asr_features))
