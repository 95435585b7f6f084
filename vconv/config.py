"""Configurations as plain dataclasses; an unknown key is an error.

``build(cls, mapping)`` is the only way in, ``dataclasses.asdict`` the only way out. ``config_files`` reads YAML.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import reprlib
import types
import typing
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from vconv.errors import InputError

T = TypeVar("T")
BottleneckKind = Literal["identity", "sparse", "vae", "vq", "gumbel", "binary", "fsq"]
ContentNorm = Literal["instance", "channel"]
Conditioning = Literal["adain", "concat"]
SpeakerSource = Literal["encoder", "pretrained", "table"]
Adversary = Literal["reversal", "alternating", "off"]
Precision = Literal["no", "bf16"]
MAX_CODE_VALUES = 65536  # of one code


class Range(NamedTuple):
    """What a number may be, both ends included; in an annotation, as ``Annotated[int, Range(1, 8)]``."""

    low: float
    high: float


ANY = Range(-1e12, 1e12)  # of a number without a range of its own
MAX_ENTRIES = 100_000  # of a list
# Far beyond what is of use, and small enough that a network of such sizes is refused by its weights and not by memory.
Channels = Annotated[int, Range(1, 1024)]
OptionalChannels = Annotated[int, Range(0, 1024)]
Blocks = Annotated[int, Range(0, 64)]
Count = Annotated[int, Range(1, 64)]
OptionalCount = Annotated[int, Range(0, 64)]
Expansion = Annotated[int, Range(1, 16)]
Codes = Annotated[int, Range(2, MAX_CODE_VALUES)]
Steps = Annotated[int, Range(0, 1_000_000_000)]
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1e6)]


@dataclasses.dataclass(frozen=True)
class BottleneckConfig:
    """What the content code passes through. The kinds that use a setting are named before it."""

    kind: BottleneckKind = "vq"
    groups: Count = 2  # vq, gumbel, binary, fsq: codes a frame, each from a codebook of its own
    codes: Codes = 512  # vq, gumbel, binary: entries a codebook; for binary a power of two
    quantizers: Count = 1  # vq: stages, each of which quantizes what the one before has left over
    decay: Share = 0.99  # vq: of the codebook's moving average
    dead_code_threshold: Weight = 1.0  # vq: codes used less than this in the moving average are replaced
    active: OptionalChannels = (
        0  # sparse: channels of a frame that stay, all others are zero; 0 has the penalty instead
    )
    penalty: Weight = 1.0  # sparse, without `active`: weight of the L1 norm
    beta: Weight = 0.02  # vae: weight of a nat of divergence
    entropy: Weight = 0.1  # gumbel, binary: weight of the loss that keeps all codes in use; 0 is none
    temperature: tuple[Weight, Weight] = (2.0, 0.5)  # gumbel: at first, at last
    warmup: Steps = 5000  # steps until vae's divergence has its weight, gumbel's temperature its last value
    levels: tuple[Codes, ...] = (8, 8, 8)  # fsq: values of each number of a code
    soft_temperature: Weight = 0.0  # vq, at inference: z_q is a weighted mean of entries; 0 is the nearest entry
    residual_mix: Share = 0.0  # vq, at inference: fraction of the quantization residual added back
    soft_probability: Share = 0.0  # vq, in training: probability that an item is decoded as at inference

    @property
    def codes_per_frame(self) -> int:
        """G; 0 for the kinds that have no codes."""
        if self.kind in ("identity", "sparse", "vae"):
            return 0
        return self.groups * self.stages

    @property
    def stages(self) -> int:
        """Stages whose codes refine those of the ones before: the codes of the first few are a coarser code."""
        return self.quantizers if self.kind == "vq" else 1

    def codes_of(self, stages: int | None) -> int:
        """Codes a frame of the first so many stages; None is all. Raises InputError where there are not as many."""
        if stages is not None and not 1 <= stages <= self.stages:
            raise InputError(f"stages: {stages} are impossible with this model; use 1 to {self.stages}")
        return self.codes_per_frame // self.stages * (stages or self.stages)

    @property
    def code_values(self) -> int:
        """K, how many values each code can take; 0 for the kinds that have no codes."""
        if not self.codes_per_frame:
            return 0
        return math.prod(self.levels) if self.kind == "fsq" else self.codes

    @property
    def bits_per_frame(self) -> float:
        """G log2 K: what a frame of the code takes at most; infinite for the kinds that have no codes."""
        return self.codes_per_frame * math.log2(self.code_values) if self.codes_per_frame else math.inf

    def check(self, channels: int) -> None:
        """Raise InputError where this cannot be a bottleneck of so many channels."""
        if self.kind in ("vq", "gumbel") and channels % self.groups:
            raise InputError(f"bottleneck.groups: {channels} content_channels do not divide into {self.groups} groups")
        if self.kind == "sparse" and self.active > channels:
            raise InputError(f"bottleneck.active: {self.active} of {channels} content_channels; use {channels} at most")
        if self.kind == "gumbel" and min(self.temperature) <= 0:
            raise InputError(f"bottleneck.temperature: {list(self.temperature)}; use positive ones")
        if self.kind == "binary" and self.codes & (self.codes - 1):
            raise InputError(f"bottleneck.codes: {self.codes} are no signs' combinations; use a power of two")
        if self.kind == "fsq" and (min(self.levels, default=0) < 3 or len(self.levels) > 16):
            raise InputError(f"bottleneck.levels: {shown(list(self.levels))}; use one to 16, each 3 or more")
        if self.codes_per_frame and self.code_values > MAX_CODE_VALUES:
            raise InputError(
                f"bottleneck: {self.code_values} values a code are too many; use {MAX_CODE_VALUES} and more groups"
            )


@dataclasses.dataclass(frozen=True)
class ConversionConfig:
    """Content encoder, bottleneck, speaker encoder and decoder."""

    channels: Channels = 192
    expansion: Expansion = 3  # hidden channels of a block's MLP, as a multiple
    content_blocks: tuple[Blocks, Blocks] = (2, 5)  # at the frame rate, at half of it
    content_channels: Channels = 64  # of the code
    asr_channels: OptionalChannels = 0  # of the ASR features; 0: the content encoder has the mel alone
    denoiser_channels: Channels = 256
    denoiser_blocks: Blocks = 0  # that denoise the mel before the content encoder; 0: no denoiser
    speaker_blocks: Blocks = 3
    embedding_channels: Channels = 192
    decoder_channels: Channels = 224
    decoder_blocks: tuple[Blocks, Blocks] = (1, 6)  # at half the frame rate, at the frame rate
    attention_channels: OptionalChannels = 192  # of the attention to the reference; 0: the embedding alone
    attention_heads: Count = 4
    bottleneck: BottleneckConfig = BottleneckConfig()
    content_norm: ContentNorm = (
        "instance"  # instance removes what is constant in a recording, such as the speaker; channel keeps it
    )
    conditioning: Conditioning = "adain"  # or the embedding beside each frame of the decoder
    # Of the embedding: an encoder trained with the model, a pretrained one, or a table of the training speakers.
    speaker: SpeakerSource = "encoder"
    speaker_embedding_channels: OptionalChannels = 0  # with `pretrained`: of its embedding; training sets it
    speakers: tuple[str, ...] = ()  # with `table`: its rows' names, which training takes from the manifest
    adapter_rank: OptionalCount = 0  # of a voice adapter's matrices (LoRA); `vconv export` sets it

    def __post_init__(self) -> None:
        self.bottleneck.check(self.content_channels)
        if self.attention_channels % self.attention_heads:
            heads = f"attention_heads: {self.attention_channels} attention_channels"
            raise InputError(f"{heads} do not divide into {self.attention_heads} heads")

    @property
    def embeds_speakers(self) -> bool:
        """Whether it can take anybody's voice from a clip, and not only those that it has learned."""
        return self.speaker != "table"

    @property
    def adapter_shape(self) -> tuple[int, int]:
        """Of what a tuned voice adds to the decoder: AdaIN layers; their scales and shifts, then low-rank factors."""
        if self.conditioning != "adain":
            return 0, 0
        width, hidden = self.decoder_channels, self.decoder_channels * self.expansion
        return sum(self.decoder_blocks) + 1, 2 * width + 2 * self.adapter_rank * (width + hidden)


@dataclasses.dataclass(frozen=True)
class VocoderConfig:
    channels: Channels = 256
    expansion: Expansion = 3
    blocks: Blocks = 6
    subframes: Expansion = 2  # STFT frames to one mel frame: the hop is OUTPUT_HOP / subframes, the window four hops


def _convert(kind: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type ``kind``; raises InputError where it does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        kind, limits = arguments
        return _within(_convert(kind, value, where), limits, where)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a mapping, got {shown(value)}")
        return build(kind, value, where)
    if origin is Literal:
        if value is False:  # YAML 1.1 reads a bare `off` or `no` so
            value = next((word for word in ("off", "no") if word in arguments), value)
        if value not in arguments:
            raise InputError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {shown(value)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or (arguments[-1] is not ... and len(value) != len(arguments)):
            raise InputError(f"{where}: expected a list of {len(arguments)}, got {shown(value)}")
        if len(value) > MAX_ENTRIES:
            raise InputError(f"{where}: {len(value)} entries are too many; use {MAX_ENTRIES} at most")
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(k, v, where) for k, v in zip(inner, value))
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            value = float(value)  # YAML reads 1e-4 as text
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {kind.__name__}, got {shown(value)}")
    return _within(value, ANY, where) if kind in (int, float) else value


def _within(value: Any, limits: Range, where: str) -> Any:
    """The number. Raises InputError if it is out of its range, infinite or NaN."""
    if not limits.low <= value <= limits.high:
        raise InputError(f"{where}: {shown(value)} is out of range; use {limits.low:g} to {limits.high:g}")
    return value


def shown(value: Any) -> str:
    """A value in a message, cut where it is long or nested: YAML's aliases can make a short file endless."""
    return reprlib.repr(value)[:80]


def build(cls: type[T], mapping: dict[str, Any], where: str = "config") -> T:
    """A ``cls`` with ``mapping``'s values over its defaults.

    Raises:
        InputError: an unknown key (with the nearest known one), or a value of the wrong type.
    """
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: expected a mapping, got {shown(mapping)}")
    kinds = typing.get_type_hints(cls, include_extras=True)
    for key in mapping:
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(kinds)}"
            raise InputError(f"{where}: unknown key {shown(str(key))}{hint}")
    values = {key: _convert(kinds[key], value, f"{where}: {key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{where}: {error}") from None
