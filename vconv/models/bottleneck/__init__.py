"""What the content code must pass through: one interface, a kind a file, chosen by ``bottleneck.kind``."""

from __future__ import annotations

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.binary import Binary
from vconv.models.bottleneck.fsq import Fsq
from vconv.models.bottleneck.gumbel import Gumbel
from vconv.models.bottleneck.identity import Identity
from vconv.models.bottleneck.interface import Bottleneck, Code
from vconv.models.bottleneck.sparse import Sparse
from vconv.models.bottleneck.vae import Vae
from vconv.models.bottleneck.vq import VectorQuantizer

__all__ = ["Bottleneck", "Code", "make_bottleneck"]

KINDS: dict[str, type[Bottleneck]] = {
    "identity": Identity,
    "sparse": Sparse,
    "vae": Vae,
    "vq": VectorQuantizer,
    "gumbel": Gumbel,
    "binary": Binary,
    "fsq": Fsq,
}


def make_bottleneck(channels: int, config: BottleneckConfig) -> Bottleneck:
    return KINDS[config.kind](channels, config)
