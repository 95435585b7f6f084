"""Content as live conversion makes it: of a second of speech that ends with a block and its lookahead."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vconv.features import HOP_LENGTH
from vconv.frontends.ends import MIRRORED
from vconv.frontends.grid import CODE_HOP, places
from vconv.models.content_encoder import ContentEncoder
from vconv.models.norm_statistics import NormStatistics
from vconv.models.pretrained.moonshine import at_places
from vconv.models.pretrained.moonshine_live import LiveMoonshine

WINDOW = 34  # frames of the code that are known, 1.09 s
AFTER = MIRRORED // 2  # frames of the code that follow mirrored


class Cut(NamedTuple):
    """A stream that has come as far as a block and its lookahead."""

    number: int  # of the block, from 0
    start: int  # first frame of the ASR encoder that the window needs
    end: int  # the one after the block
    known: int  # frames of the code all of whose samples are known
    due: list[int]  # frames of the code that need no features after the block


def cut(encoder: LiveMoonshine, number: int, block: int, ahead: int, mirrored: int) -> Cut:
    """After block ``number``, where the last ``mirrored`` samples of the lookahead are not known."""
    stride, centre = encoder.stride, encoder.centre
    end = (number + 1) * block
    known = int((end + ahead - 1) * stride + 2 * centre + 1 - mirrored) // CODE_HOP
    # The frame k of the code takes the features of the two frames around its place.
    stop, first = (int(((n - 1) * stride + centre - HOP_LENGTH / 2) // CODE_HOP) + 1 for n in (end, end - block))
    start = max(int(places(np.array(known - WINDOW), stride, centre)), 0)
    return Cut(number, start, end, known, list(range(max(first, known - WINDOW), min(stop, known))))


def cuts(encoder: LiveMoonshine, frames: int, block: int, ahead: int, mirrored: int, chosen: Tensor) -> list[Cut]:
    """Of a wave of so many frames, at ``chosen`` places [W], from 0, the earliest possible one, to 1, the last one.

    None where it is too short.
    """
    blocks = (frames - ahead) // block
    every = [cut(encoder, number, block, ahead, mirrored) for number in range(blocks)]
    every = [one for one in every if one.known >= WINDOW and one.due]
    return [every[min(int(place * len(every)), len(every) - 1)] for place in chosen.tolist()] if every else []


def features_at(encoder: LiveMoonshine, found: Tensor, frames: int, ahead: int, at: Cut) -> Tensor:
    """ASR features [B, C, WINDOW + AFTER] of a window, of ``LiveMoonshine.encoded`` for as many frames [B, K, C]."""
    again = frames + at.number * ahead
    rows = torch.cat([found[:, at.start : at.end], found[:, again : again + ahead]], dim=1)
    code = torch.arange(at.known - WINDOW, at.known + AFTER, device=found.device)
    return at_places(rows.transpose(1, 2), places(code, encoder.stride, encoder.centre) - at.start)


def mel_at(mel: Tensor, at: Cut) -> Tensor:
    """Mel [B, N_MELS, 2 (WINDOW + AFTER)] of a window, with its end mirrored, of that of the wave."""
    known = mel[:, :, 2 * (at.known - WINDOW) : 2 * at.known]
    return torch.cat([known, known[:, :, -2 * AFTER :].flip(2)], dim=2)


def code_difference(
    content: ContentEncoder, windows: list[tuple[Tensor, Tensor]], at: list[Cut], wanted: Tensor, statistics: Tensor
) -> Tensor:
    """Squared difference of what the content encoder gives for windows and for whole waves, by the latter's variance.

    Args:
        content: frozen.
        windows: mel and ASR features of each.
        at: where they are.
        wanted: [B, C, T / 2] of whole waves.
        statistics: [B, 2, S] of their instance norms, which the windows take.
    """
    mel, features = (torch.cat(parts) for parts in zip(*windows))
    given = statistics.repeat(len(at), 1, 1)
    with NormStatistics(given, given.new_ones(len(given))):
        found = content(mel, features).float().chunk(len(at))
    differences = []
    for z, one in zip(found, at):
        places_due = [k - one.known + WINDOW for k in one.due]
        differences.append((z[:, :, places_due] - wanted[:, :, one.due]).square().mean(dim=1).flatten())
    return torch.cat(differences).mean() / (wanted.var() + 1e-4)
