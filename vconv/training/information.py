"""Bounds on mutual information, each by a critic that separates matching pairs from mismatched ones.

The critics exist in training only. What a module here returns is *minus* its bound, in nats: about zero where
nothing is known, the lower, the more is. All scores are in float32, whatever the networks run in.

What is to rise (the information shared by speech and code, or by a code and its own future) is bounded by InfoNCE:
a true lower bound of the mutual information with little variance, which needs many mismatched pairs, and every
other frame makes one for nothing. What is to fall (the speaker information in the code) is played as a game
instead, on the Jensen-Shannon divergence: pushing down a lower bound proves nothing, but against a critic that
goes on learning, the gradient ends only where it finds no difference. An upper bound such as vCLUB (Cheng et al.
2020, used by Wang et al. 2021, "VQMIVC") would need a model of the code given the speaker, and the usual Gaussian
of each frame sees little but means, which instance norm has mostly taken away already.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.features import N_MELS
from vconv.models.layers import GradientReversal, normalize_mel
from vconv.models.speaker_classifier import CodeClassifier


def info_nce(scores: Tensor, match: Tensor) -> Tensor:
    """InfoNCE: scores [B, M, N] of M anchors against N candidates, the index [M] of each one's match -> nats.

    van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4, where the
    scores are log f. It is log N for scores that say nothing, and log N minus it is a lower bound of the mutual
    information (its section 2.3).
    """
    return F.cross_entropy(scores.float().flatten(0, 1), match.repeat(len(scores)))


def jensen_shannon(scores: Tensor, matching: Tensor) -> Tensor:
    """What a critic's scores tell of whether pairs match, in nats: scores and matching (bool) of one shape.

    Hjelm et al. 2019, "Learning deep representations by mutual information estimation and maximization", eq. 4: a
    discriminator's log-likelihood. The 2 log 2 of one at chance are added, so that independence is zero and
    certainty 2 log 2, and a perfect critic gives twice the Jensen-Shannon divergence of matching and mismatched
    pairs. Zero, too, where there are no pairs of both kinds to compare.
    """
    scores, match = scores.float(), matching.float()
    other = 1 - match
    match_count, other_count = match.sum(), other.sum()
    likelihood = -(F.softplus(-scores) * match).sum() / match_count.clamp(min=1)
    likelihood = likelihood - (F.softplus(scores) * other).sum() / other_count.clamp(min=1)
    return (likelihood + 2 * math.log(2)) * (match_count * other_count > 0)


class FuturePrediction(nn.Module):
    """Contrastive predictive coding on the content code: code [B, C, T] -> minus the bound, mean over k steps ahead.

    Eq. 3 and 4 of van den Oord et al. 2018: a recurrent network sums up the code so far as c_t, and
    z_{t+k} W_k c_t (over the root of C) scores what comes k frames later against all frames of the clip and as
    many of its neighbour in the batch. The encoder sees half a second around a frame, so part of the future is
    known to it; the loss favours a code with slow and predictable contents, such as phones.
    """

    def __init__(self, channels: int, steps: int, width: int = 128) -> None:
        super().__init__()
        self.context = nn.GRU(channels, width, batch_first=True)
        self.ahead = nn.ModuleList(nn.Linear(width, channels, bias=False) for _ in range(steps))

    def forward(self, code: Tensor) -> Tensor:
        with torch.autocast(code.device.type, enabled=False):
            frames = code.float().transpose(1, 2)
            context, _ = self.context(frames)
            # The neighbour's frames tell what a voice has in common with itself, its own tell what words have.
            candidates = torch.cat([frames, frames.roll(1, 0)], dim=1) if len(frames) > 1 else frames
            candidates = candidates.transpose(1, 2) / code.shape[1] ** 0.5
            bounds = []
            for step, predict in enumerate(self.ahead, 1):
                scores = predict(context[:, :-step]) @ candidates
                bounds.append(math.log(scores.shape[2]) - info_nce(scores, _numbers(scores) + step))
        return -torch.stack(bounds).mean()


class ContentInformation(nn.Module):
    """How much the code of a clip holds of its speech: mel [B, N_MELS, T], code [B, C, T / 2] -> minus the bound.

    The local objective of Hjelm et al. 2019, section 3.2, with their InfoNCE (eq. 5): a scalar product of what two
    small networks make of 0.1 s of the mel and of a frame of the code tells which frames belong together.
    Mismatched pairs are of one clip: its voice is the same in all of its frames, so they can be told apart by
    what is said alone, and no bit of the code is spent on the speaker.
    """

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        self.speech = nn.Sequential(
            nn.Conv1d(N_MELS, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, width, 4, stride=2, padding=1)
        )
        self.code = nn.Sequential(nn.Conv1d(channels, width, 1), nn.GELU(), nn.Conv1d(width, width, 1))

    def forward(self, mel: Tensor, code: Tensor) -> Tensor:
        speech, code = self.speech(normalize_mel(mel)), self.code(code)
        with torch.autocast(code.device.type, enabled=False):
            scores = speech.float().transpose(1, 2) @ code.float() / code.shape[1] ** 0.5
            return info_nce(scores, _numbers(scores)) - math.log(scores.shape[2])


class SpeakerInformation(nn.Module):
    """How much the code holds of the speaker: code [B, C, T], embedding [B, E], speaker [B] -> minus the bound.

    The critic classifies whether a code is paired with the embedding of its own speaker or with another's
    (``jensen_shannon``). The code gets the reversed gradient, as from the adversary, which makes the pairs
    indistinguishable; the embedding gets none. The adversary predicts the speaker's name, the critic
    anything of the embedding that shows in the code, similarity to other speakers included. Whether two items of
    unknown speakers (-1) match is not known, and such pairs are left out.
    """

    def __init__(self, channels: int, embedding_channels: int, width: int = 128) -> None:
        super().__init__()
        self.code = CodeClassifier(channels, width)
        self.voice = nn.Sequential(nn.Linear(embedding_channels, width), nn.GELU(), nn.Linear(width, width))
        self.gain = embedding_channels**0.5  # unit-length embeddings have entries of about E ** -0.5

    def forward(self, code: Tensor, embedding: Tensor, speaker: Tensor) -> Tensor:
        read, voice = self.code(GradientReversal.apply(code)), self.voice(self.gain * embedding.detach())
        with torch.autocast(code.device.type, enabled=False):
            scores = read.float() @ voice.float().T / read.shape[1] ** 0.5
            own = torch.eye(len(speaker), dtype=torch.bool, device=speaker.device)
            same = speaker[:, None] == speaker
            known = own | ~same | (speaker >= 0)
            return -jensen_shannon(scores[known], same[known])


def _numbers(scores: Tensor) -> Tensor:
    """0 to M - 1 for scores [B, M, N]."""
    return torch.arange(scores.shape[1], device=scores.device)
