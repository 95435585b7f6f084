"""What networks that others trained hear of converted mels, through the vocoder: whose voice, what words."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv import audio
from vconv.errors import InputError
from vconv.excitation import PulseTrain
from vconv.features import OUTPUT_RATE, SAMPLE_RATE
from vconv.files import digest, replacing
from vconv.models.moonshine import Moonshine
from vconv.models.verifier import Verifier, load_verifier
from vconv.models.vocoder import Vocoder
from vconv.training.batches import Corpus
from vconv.training.disturb import faster
from vconv.training.store import WAVE_SCALE, Entry, Store
from vconv.verifier import WINDOW_SECONDS

CLIPS_AT_A_TIME = 16


class Listener:
    """Vocoder, verifier and recognizer, all frozen, on one device. No module: their weights belong in no checkpoint."""

    def __init__(self, vocoder: Vocoder, verifier: Verifier | None = None, recognizer: Moonshine | None = None) -> None:
        self.vocoder, self.verifier, self.recognizer = vocoder.requires_grad_(False), verifier, recognizer

    def wave(self, mel: Tensor, pitch: Tensor) -> Tensor:
        """mel [B, N_MELS, T], pitch [B, 2, T] -> wave [B, N] at 16 kHz. Gradients reach the mel."""
        curves = pitch[:, 0].detach().cpu().numpy()
        source = np.stack([PulseTrain(curve).samples(0, len(curve)) for curve in curves])
        source = torch.from_numpy(source).to(mel.device)
        return to_analysis_rate(self.vocoder(mel, pitch, source, 2 * torch.rand_like(source) - 1))

    def __call__(self, fakes: dict[str, Tensor], voices: Tensor | None) -> dict[str, Tensor]:
        """Losses by name: ``likeness`` of what is converted to the voices [K, E], ``words`` against its source's.

        Of ``fakes`` it takes ``converted`` [B, N_MELS, T] with ``pitch`` [B, 2, T], the wanted ``speaker`` [B] and
        ``voice`` as ``likeness`` does, and the clean ``source`` [B, N_MELS, T] with ``source_pitch``.
        """
        wave, losses = self.wave(fakes["converted"], fakes["pitch"]), {}
        if self.verifier is not None:
            losses["likeness"] = likeness(self.verifier(wave), voices, fakes["speaker"], fakes["voice"])
        if self.recognizer is not None:
            with torch.no_grad():  # of the same stretch, through the same vocoder: the words alone are to differ
                said = self.recognizer(self.wave(fakes["source"], fakes["source_pitch"]))
            losses["words"] = words_distance(self.recognizer(wave), said)
        return losses


def to_analysis_rate(wave: Tensor) -> Tensor:
    """24 kHz to 16 kHz by leaving out the upper band of the spectrum: [B, N] -> [B, 2N / 3], N divisible by three."""
    samples = wave.shape[1] * SAMPLE_RATE // OUTPUT_RATE
    spectrum = torch.fft.rfft(wave.float())[:, : samples // 2 + 1]
    return torch.fft.irfft(spectrum, samples) * (SAMPLE_RATE / OUTPUT_RATE)


def likeness(heard: Tensor, voices: Tensor, speaker: Tensor, voice: Tensor | None = None) -> Tensor:
    """One less the cosine of what is heard [B, E] and the wanted speakers' voices [K, E], speaker [B].

    Speakers of -1, who are nobody, have the ``voice`` [B, E] that was heard of them; without any they do not count.
    """
    known, wanted = speaker >= 0, voices[speaker.clamp(min=0)]
    if voice is not None and voice.shape[1]:
        wanted, known = torch.where(known[:, None], wanted, voice), torch.ones_like(known)
    distance = 1 - (heard * wanted).sum(dim=1)
    return (distance * known).sum() / known.sum().clamp(min=1)


def words_distance(heard: Tensor, source: Tensor) -> Tensor:
    """One less the cosine of both features [B, R, T], of each frame, less what the source's frames have in common."""
    middle = source.mean(dim=(0, 2), keepdim=True)
    return (1 - F.cosine_similarity(heard - middle, source - middle, dim=1)).mean()


def clip_voices(corpus: Corpus, verifier: str, octaves: float = 0.0) -> np.ndarray:
    """What a verifier hears of each of the corpus's clips, made so much higher: [items, E] of unit length.

    It is kept beside the feature store's arrays.

    Raises:
        InputError: the corpus is not a feature store, or the file no verifier.
    """
    if not isinstance(corpus.store, Store):
        raise InputError("verifier: listens to clips of a feature store; set corpus.features to store")
    moved = f"{octaves:+g}" if octaves else ""
    path = corpus.store.folder / f"voices-{digest(verifier)[:16]}{moved}.npy"
    if not path.exists():
        heard = _hear_clips(corpus.store, load_verifier(verifier), octaves)
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, heard.numpy().astype(np.float16))
    clips = {entry.path: row for entry, row in zip(corpus.store.entries, np.load(path).astype(np.float32))}
    return np.stack([clips[item.entry.path] for item in corpus.items])


def speaker_voices(corpus: Corpus, verifier: str) -> Tensor:
    """The mean voice of each of the corpus's speakers: [K, E] of unit length. Raises InputError as ``clip_voices``."""
    rows = torch.from_numpy(clip_voices(corpus, verifier))
    speakers = torch.tensor([item.speaker for item in corpus.items])
    sums = torch.zeros(len(corpus.speakers), rows.shape[1]).index_add_(0, speakers, rows)
    return F.normalize(sums, dim=1)


@torch.no_grad()
def _hear_clips(store: Store, verifier: Verifier, octaves: float) -> Tensor:
    """Of each clip, in order: [clips, E]"""
    starts = range(0, len(store.entries), CLIPS_AT_A_TIME)
    groups = (store.entries[start : start + CLIPS_AT_A_TIME] for start in starts)
    waves = (np.stack([faster(_middle(store, entry), 2**octaves) for entry in group]) for group in groups)
    return torch.cat([verifier(torch.from_numpy(batch)) for batch in waves])


def _middle(store: Store, entry: Entry) -> np.ndarray:
    """``WINDOW_SECONDS`` of a clip at 16 kHz, from its middle; shorter ones are repeated."""
    wave, wanted = store.clip_wave(entry).reshape(-1), round(WINDOW_SECONDS * OUTPUT_RATE)
    at = max(0, len(wave) - wanted) // 2
    wave = np.resize(wave[at : at + wanted], wanted).astype(np.float32) / WAVE_SCALE
    return audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE).astype(np.float32)
