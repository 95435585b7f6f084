"""No bottleneck at all."""

from __future__ import annotations

from torch import Tensor

from vconv.models.bottleneck.interface import Bottleneck, Code


class Identity(Bottleneck):
    """z_q = z: a plain convolutional auto-encoder (Hinton and Salakhutdinov 2006), to compare with.

    What keeps the speaker out of the code is then the encoder's instance norm and the losses alone.
    """

    def _encode(self, z: Tensor) -> Code:
        return Code(z, z.new_zeros(()), None)

    _learn = _encode
