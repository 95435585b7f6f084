"""A model folder from a checkpoint."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from vconv.errors import InputError, VconvError
from vconv.export.traced import networks, speaker_encoder_network
from vconv.export.tracing import store_in_half, trace, without_lengths
from vconv.export.weights import places, refer
from vconv.frontends.asr_encoder import AsrEncoder
from vconv.frontends.live_asr_encoder import LiveAsrEncoder
from vconv.model_folder import ASR_ENCODER, LIVE_ASR_ENCODER, SPEAKER_ENCODER_WEIGHTS, WEIGHTS, record_digests
from vconv.models import saved
from vconv.models.conversion import ConversionModel
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus, save_campplus
from vconv.models.speaker_table import SpeakerTable
from vconv.models.vocoder import Vocoder
from vconv.training.trained import load_conversion, load_vocoder, trained_with
from vconv.voice import Voice

ADAPTER_RANK = 8  # of the matrices that `vconv finetune` may add; more makes larger voices and slower conversions


def export(
    conversion: Path,
    vocoder: Path,
    output: Path,
    settings: Sequence[str] = (),
    asr_encoder: Path | None = None,
    speaker_encoder: Path | None = None,
    live_asr_encoder: Path | None = None,
) -> None:
    """Write a model folder from a conversion and a vocoder checkpoint, with their averaged weights.

    Either may be another model folder, whose model is then taken over. ``settings`` are ``key=value`` of a
    checkpoint's conversion model that concern its use, such as ``bottleneck.soft_temperature=0.1``. ``asr_encoder`` and
    ``speaker_encoder`` replace the files that the checkpoint names, where those have moved. ``live_asr_encoder`` is the
    one of live conversion; by default the one that lies beside the ASR encoder, if there is one.

    Raises:
        InputError: a file is no such checkpoint, a folder holds no model, or a pretrained encoder is missing.
    """
    speaks = load_vocoder(vocoder)
    model, (asr_encoder_file, speaker_encoder_file) = load_conversion(conversion, settings), trained_with(conversion)
    asr_file = asr_encoder or asr_encoder_file
    if not model.config.asr_channels:
        asr_file = live_asr_encoder = None
    elif asr_file is None:
        raise InputError(f"{conversion}: no ASR encoder is known for it; give the one that it was trained with")
    elif AsrEncoder(asr_file).channels != model.config.asr_channels:
        raise InputError(f"{conversion}: was trained with another ASR encoder than {asr_file}; give that one")
    write_model(
        output,
        model,
        speaks,
        asr_file,
        _speaker_encoder(model, conversion, speaker_encoder or speaker_encoder_file),
        _live_asr_encoder(asr_file, live_asr_encoder),
    )


def _live_asr_encoder(asr_encoder: Path | None, file: Path | None) -> Path | None:
    """The live ASR encoder: the file, or what lies beside the ASR encoder. Raises InputError if it is none."""
    if file is None:
        beside = asr_encoder and asr_encoder.with_name(LIVE_ASR_ENCODER)
        return beside if beside and beside.is_file() else None
    if asr_encoder is not None:
        LiveAsrEncoder(file, AsrEncoder(asr_encoder).channels, 1)
    return file


def _speaker_encoder(model: ConversionModel, checkpoint: Path, file: Path | None) -> CamPlusPlus | None:
    """The pretrained speaker encoder of a model, if it has one. Raises InputError if it is not that of the training."""
    if model.config.speaker != "pretrained":
        return None
    speaker_encoder = load_campplus(file) if file else None
    if speaker_encoder is None or speaker_encoder.config.embedding_channels != model.config.speaker_embedding_channels:
        raise InputError(f"{checkpoint}: was trained with another speaker encoder than {file}; give that one")
    return speaker_encoder


def write_model(
    folder: Path,
    conversion: ConversionModel,
    vocoder: Vocoder,
    asr_encoder: Path | None = None,
    speaker_encoder: CamPlusPlus | None = None,
    live_asr_encoder: Path | None = None,
) -> None:
    """Write config, weights, graphs and the pretrained encoders; for a table of speakers, also their voices.

    The models' weights are rounded in place to what the files hold, and the decoder gets room for tuned matrices. The
    graphs read their weights from the safetensors files beside them. Graphs and voices of another model that was in the
    folder go first: what a kill leaves is incomplete and says so, and never two models mixed.
    """
    for module in (conversion, vocoder):
        try:
            saved.check_weights(module)
        except RuntimeError as error:
            raise VconvError(f"{folder}: not written, as {error}; export an earlier checkpoint") from error
    folder.mkdir(parents=True, exist_ok=True)
    found = {ASR_ENCODER: asr_encoder, LIVE_ASR_ENCODER: live_asr_encoder}
    asr_encoders = {name: file for name, file in found.items() if file is not None}
    kept = {file.resolve() for file in asr_encoders.values()}
    for stale in [*folder.glob("*.onnx"), *(folder / "voices").glob("*.npz")]:
        if stale.resolve() not in kept:
            stale.unlink()
    conversion.config = dataclasses.replace(conversion.config, adapter_rank=ADAPTER_RANK)
    saved.round_weights(conversion.eval())
    saved.round_weights(vocoder.eval())
    saved.save(folder, conversion, vocoder)
    graphs, files = networks(conversion, vocoder), [folder / name for name in WEIGHTS]
    speaker_encoder_file = folder / SPEAKER_ENCODER_WEIGHTS
    if speaker_encoder is None:
        speaker_encoder_file.unlink(missing_ok=True)
    else:
        save_campplus(speaker_encoder_file, speaker_encoder, in_bytes=True)
        graphs["speaker_encoder"] = speaker_encoder_network(
            load_campplus(speaker_encoder_file)
        )  # rounded as the file is
        files.append(speaker_encoder_file)
    weights = places(files)
    for name, file in asr_encoders.items():
        if file.resolve() != (folder / name).resolve():
            saved.replace(folder / name, lambda path, file=file: path.write_bytes(file.read_bytes()))
    for name, network in graphs.items():
        graph = refer(without_lengths(store_in_half(trace(network))), weights)
        saved.replace(folder / f"{name}.onnx", lambda path, graph=graph: onnx.save(graph, path))
    record_digests(folder)
    if isinstance(conversion.speaker, SpeakerTable):
        write_voices(folder / "voices", conversion.config.speakers, conversion.speaker)


@torch.no_grad()
def write_voices(folder: Path, names: Sequence[str], table: SpeakerTable) -> None:
    """Write NAME.npz for each row of a table, its register with it; what no file is called is replaced in the name."""
    folder.mkdir(exist_ok=True)
    rows = zip(names, table(torch.arange(len(names))), table.log_f0.tolist(), table.log_f0_spread.tolist())
    taken: set[str] = set()
    for name, embedding, log_f0, spread in rows:
        stem = re.sub(r"[^\w.-]+", "_", name)
        while stem.lower() in taken:  # some file systems ignore case
            stem += "_"
        taken.add(stem.lower())
        register, swing = (None if math.isnan(value) else value for value in (log_f0, spread))
        Voice(embedding.numpy(), register, log_f0_spread=swing).save(folder / f"{stem}.npz")
