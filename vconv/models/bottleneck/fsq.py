"""Rounded numbers."""

from __future__ import annotations

from torch import Tensor

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.interface import Bottleneck, Code


class Fsq(Bottleneck):
    """In each group a few numbers, each rounded to one of its levels: G = groups, K the product of the levels.

    Mentzer et al. 2024, "Finite Scalar Quantization: VQ-VAE Made Simple", section 3.1: of a projection x of z, each
    number is bounded to (L/2) tanh(x) and rounded, with the gradient straight through the rounding, and the
    numbers of a group make one code in mixed radix. All codes are reached without any loss or restarts. The
    arithmetic is vector-quantize-pytorch's.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        from vector_quantize_pytorch import FSQ

        self.quantizer = FSQ(list(config.levels), channels, config.groups, keep_num_codebooks_dim=True)

    def _learn(self, z: Tensor) -> Code:
        z_q, codes = self.quantizer(z.transpose(1, 2))
        return Code(z_q.transpose(1, 2), z.new_zeros(()), codes.transpose(1, 2).long())

    def _encode(self, z: Tensor) -> Code:
        codes = self._learn(z).codes
        return Code(self.decode(codes), z.new_zeros(()), codes)

    def decode(self, codes: Tensor) -> Tensor:
        return self.quantizer.indices_to_codes(codes.transpose(1, 2)).transpose(1, 2)
