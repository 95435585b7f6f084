"""A corpus: features with the manifest's labels as numbers."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vconv.data.decoded import Decoded
from vconv.data.manifest import TRAIN, VALID, Clip
from vconv.data.on_the_fly import OnTheFly
from vconv.data.store import Entry, Store
from vconv.errors import InputError

STRESS_MARKS = "ˈˌ"
PSEUDO_LABELS = "pseudo_labels"  # column of the manifest


@dataclass(frozen=True, slots=True)
class Item:
    """A clip with its place in the store and its labels as numbers."""

    entry: Entry
    speaker: int
    group: str
    phones: tuple[int, ...]  # empty where unknown
    sample_rate: int  # Hz, native
    label: int  # what the adversary is to read off it; -1 where unknown
    pseudo_labels: np.ndarray | None = None  # [frames / 2] of each frame of the code, where the manifest has them
    speaker_name: str = ""  # in the manifest; the number of a speaker that training does not have is -1
    language: str = ""  # code without a region, such as en; empty where unknown


@dataclass
class Corpus:
    """Features with the manifest's labels: the training or the validation part of it."""

    store: Store | OnTheFly | Decoded
    items: list[Item]
    speakers: list[str]
    phone_set: list[str]  # phone k + 1 of CTC; 0 is the blank
    label_set: list[str]
    pseudo_label_count: int = 0  # kinds of pseudo-labels
    by_speaker: dict[int, list[int]] = field(init=False)  # -1: of all speakers that training does not have
    by_name: dict[str, list[int]] = field(init=False)  # of a speaker in the manifest
    by_group: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.by_speaker, self.by_name, self.by_group = defaultdict(list), defaultdict(list), defaultdict(list)
        for index, item in enumerate(self.items):
            self.by_speaker[item.speaker].append(index)
            self.by_name[item.speaker_name].append(index)
            if item.group:
                self.by_group[item.group].append(index)


def phone_symbols(phones: str) -> list[str]:
    """IPA text as single symbols, without stress, spaces and punctuation."""
    return [c for c in phones if c not in STRESS_MARKS and (c.isalpha() or c in "ːʲ̩̃")]


def parse_pseudo_labels(clip: Clip) -> np.ndarray | None:
    """The column ``pseudo_labels`` of a clip, one number for each frame of the code; None where it is empty.

    Raises:
        InputError: they are not numbers from 0 on.
    """
    if not (text := clip.text(PSEUDO_LABELS)):
        return None
    try:
        pseudo_labels = np.array(text.split(), np.int32)
    except (ValueError, OverflowError):
        pseudo_labels = np.array([-1])
    if pseudo_labels.min() < 0:
        raise InputError(
            f"{clip.path}: column '{PSEUDO_LABELS}': expected numbers from 0 on, one for each frame of the code"
        )
    return pseudo_labels


def values_of(clips: Iterable[Clip], column: str) -> list[str]:
    """The values that the training clips have in a column of the manifest, sorted.

    Raises:
        InputError: there are not two of them to tell apart.
    """
    values = sorted({text for clip in clips if clip.split == TRAIN and (text := clip.text(column))})
    if len(values) < 2:
        found = f"'{values[0]}' alone" if values else "nothing"
        raise InputError(
            f"losses.adversary_label: the manifest's training clips have {found} in a column '{column}', and two "
            "values are needed to tell apart; name another column, such as speaker"
        )
    return values


def load_corpus(
    store: Store | OnTheFly | Decoded, clips: Sequence[Clip], label: str = "speaker"
) -> tuple[Corpus, Corpus]:
    """Training and validation corpora. Speakers, phones and labels are numbered over the training part, sorted.

    A validation speaker or label that training does not have gets the number -1.

    Args:
        label: the manifest's column that holds the labels.

    Raises:
        InputError: nothing to train on, or no two labels (other than speakers) to tell apart.
    """
    by_path = {os.path.abspath(clip.path): clip for clip in clips}
    paths = [os.path.abspath(entry.path) for entry in store.entries]
    known = [(entry, by_path[path]) for entry, path in zip(store.entries, paths) if path in by_path]
    train = [pair for pair in known if pair[1].split == TRAIN]
    if not train:
        raise InputError("the feature store holds no training clip of the manifest; delete the store folder")
    speakers = sorted({clip.speaker for _, clip in train})
    phone_set = sorted({p for _, clip in train for p in phone_symbols(clip.phones)})
    speaker_number = {name: k for k, name in enumerate(speakers)}
    phone_number = {name: k + 1 for k, name in enumerate(phone_set)}
    label_set = speakers if label == "speaker" else values_of((clip for _, clip in train), label)
    label_number = {name: k for k, name in enumerate(label_set)}
    pseudo_labels = {entry.path: parse_pseudo_labels(clip) for entry, clip in known}
    pseudo_label_count = 1 + max((int(u.max()) for u in pseudo_labels.values() if u is not None), default=-1)

    def corpus(pairs: list[tuple[Entry, Clip]]) -> Corpus:
        items = [
            Item(
                entry,
                speaker_number.get(clip.speaker, -1),
                clip.group,
                tuple(phone_number[p] for p in phone_symbols(clip.phones) if p in phone_number),
                clip.sample_rate or 0,
                label_number.get(clip.text(label), -1),
                pseudo_labels[entry.path],
                clip.speaker,
                base_language(clip.language),
            )
            for entry, clip in pairs
        ]
        return Corpus(store, items, speakers, phone_set, label_set, pseudo_label_count)

    return corpus(train), corpus([pair for pair in known if pair[1].split == VALID])


def base_language(language: str) -> str:
    """A manifest's language as a code without region and accent: ``en-us`` and ``en (Mandarin L1)`` are ``en``."""
    return language.lower().replace("_", "-").replace(" ", "-").partition("-")[0]


def by_length(items: Sequence[Item]) -> np.ndarray:
    """Probabilities with which all of their speech is drawn alike: [K]"""
    frames = np.array([item.entry.frames for item in items], float)
    return frames / frames.sum()
