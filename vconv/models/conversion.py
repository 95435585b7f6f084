"""The conversion model: content encoder, bottleneck, speaker encoder, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.models.bottleneck import Code, make_bottleneck
from vconv.models.content_encoder import ContentEncoder
from vconv.models.decoder import Decoder
from vconv.models.speaker_encoder import SpeakerEncoder, VoiceProjection
from vconv.models.speaker_table import SpeakerTable

SPEAKERS = {"encoder": SpeakerEncoder, "verifier": VoiceProjection, "table": SpeakerTable}


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
        source_phonetic: Tensor | None = None,
        target_phonetic: Tensor | None = None,
    ) -> Tensor:
        """Source mel [B, N_MELS, T], pitch [B, 2, T], target mel [B, N_MELS, 2K] -> converted mel [B, N_MELS, T].

        A model with a table of speakers needs the target's number as well, [B], one with a verifier what that hears of
        it, [B, V]; one with a recognizer is better off with the features of both, [B, R, T / 2] and [B, R, K].
        """
        embedding, heard = self.embed(target, speaker), self.encode(target, target_phonetic).z_q
        return self.decoder(self.encode(source, source_phonetic).z_q, pitch, embedding, heard, target)

    def embed(self, mel: Tensor, speaker: Tensor | None) -> Tensor:
        """Who speaks: of a mel [B, N_MELS, T], of a verifier's voice [B, V] or of a number [B] in a table -> [B, E]."""
        return self.speaker(mel if self.config.speaker == "encoder" else speaker)

    def encode(self, mel: Tensor, phonetic: Tensor | None = None) -> Code:
        """Content code of a mel [B, N_MELS, T] and a recognizer's features [B, R, T / 2], without side effects."""
        return self.bottleneck.encode(self.content(mel, phonetic))
