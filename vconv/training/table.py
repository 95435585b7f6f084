"""What a model with a table of speakers takes from its corpus: their names, and where each one's melody lies."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vconv.config import ConversionConfig
from vconv.data.corpus import Corpus
from vconv.errors import InputError
from vconv.features import log_f0_spread, median_log_f0
from vconv.models.speaker_table import SpeakerTable
from vconv.training.state import load_start

CLIPS = 20  # of a speaker, to tell the register from


def with_speakers(model: ConversionConfig, corpus: Corpus, state: dict[str, Any] | None) -> ConversionConfig:
    """The config with the corpus's speakers, where the model has a table of them.

    Raises:
        InputError: the run to go on with, whose checkpoint ``state`` is, has learned others.
    """
    if model.speaker != "table":
        return model
    speakers = tuple(corpus.speakers)
    if state and tuple(state["config"]["model"]["speakers"]) != speakers:
        raise InputError("the checkpoint has other speakers than the manifest; choose another output")
    return dataclasses.replace(model, speakers=speakers)


def has_other_speakers(path: Path, model: ConversionConfig) -> bool:
    """Whether the rows of a table in a checkpoint or a model folder are not those of this model's speakers."""
    speakers = load_start(path, "conversion")["config"]["model"].get("speakers", ())
    return tuple(speakers) != tuple(model.speakers)


def measure_registers(table: SpeakerTable, corpus: Corpus) -> None:
    """Set each row's register from the speaker's first clips."""
    for speaker, members in corpus.by_speaker.items():
        f0 = np.concatenate([corpus.store.clip_f0(corpus.items[k].entry) for k in members[:CLIPS]])
        for register, value in ((table.log_f0, median_log_f0(f0)), (table.log_f0_spread, log_f0_spread(f0))):
            register[speaker] = torch.nan if value is None else value
