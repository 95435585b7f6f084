"""Configs: what fits is taken, what does not is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from vconv.config import BottleneckConfig, ConversionConfig, VocoderConfig, build
from vconv.config_files import load_yaml, to_yaml
from vconv.errors import InputError

pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent


def test_round_trip_through_plain_data() -> None:
    config = build(ConversionConfig, {"channels": 32, "content_blocks": [1, 2], "bottleneck": {"groups": 2}})
    assert config.channels == 32
    assert config.content_blocks == (1, 2)
    assert config.bottleneck.groups == 2
    assert config.bottleneck.codes == ConversionConfig().bottleneck.codes
    assert build(ConversionConfig, dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"chanels": 3}, "unknown key 'chanels'; did you mean 'channels'?"),
        (
            {"bottleneck": {"kind": "magic"}},
            "bottleneck: kind: expected one of identity, sparse, vae, vq, gumbel,",
        ),
        ({"channels": "many"}, "channels: expected int, got 'many'"),
        ({"channels": True}, "channels: expected int, got True"),
        ({"content_blocks": [1]}, "content_blocks: expected a list of 2"),
        ({"bottleneck": 3}, "bottleneck: expected a mapping"),
        ({"bottleneck": {"decay": "fast"}}, "decay: expected float, got 'fast'"),
    ],
)
def test_wrong_values_are_named(mapping: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(ConversionConfig, mapping)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_base_and_overrides(tmp_path) -> None:
    (tmp_path / "base.yaml").write_text("channels: 8\nbottleneck: {groups: 4, codes: 16}\n")
    (tmp_path / "small.yaml").write_text("base: base.yaml\nbottleneck: {groups: 2}\n")
    mapping = load_yaml(tmp_path / "small.yaml", ["bottleneck.decay=9e-1", "expansion=2"])
    config = build(ConversionConfig, mapping)
    assert (config.channels, config.expansion) == (8, 2)
    assert (config.bottleneck.groups, config.bottleneck.codes, config.bottleneck.decay) == (2, 16, 0.9)


@pytest.mark.parametrize(
    ("bottleneck", "message"),
    [
        ({"groups": 3}, "64 content_channels do not divide into 3 groups"),
        ({"kind": "gumbel", "groups": 5}, "64 content_channels do not divide into 5 groups"),
        ({"groups": 0}, "groups: 0 is out of range; use 1 to 64"),
        ({"quantizers": 0}, "quantizers: 0 is out of range"),
        ({"kind": "sparse", "active": 65}, "active: 65 of 64 content_channels"),
        ({"kind": "gumbel", "temperature": [2, 0]}, "temperature: [2.0, 0.0]; use positive ones"),
        ({"kind": "binary", "codes": 500}, "codes: 500 are no signs' combinations; use a power of two"),
        ({"kind": "binary", "codes": 1 << 17}, "codes: 131072 is out of range; use 2 to 65536"),
        ({"kind": "fsq", "levels": [8, 2]}, "levels: [8, 2]; use one to 16, each 3 or more"),
        ({"kind": "fsq", "levels": []}, "levels: []; use one to 16"),
    ],
)
def test_impossible_bottlenecks_are_named(bottleneck: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(ConversionConfig, {"bottleneck": bottleneck}, "model")
    assert str(caught.value).startswith("model: bottleneck") and message in str(caught.value)


NUMBERS = [0, -1, 1 << 60, -(1 << 60), 10**400, float("nan"), float("inf"), "nan", "1e999", 1e13]


@pytest.mark.parametrize("kind", [BottleneckConfig, ConversionConfig, VocoderConfig])
def test_every_number_has_a_range(kind: type) -> None:
    """Values that no network has are refused in one line, or do no harm: nothing else is raised."""
    for field in (field for field in dataclasses.fields(kind) if field.name != "speakers"):
        for number in NUMBERS:
            value = [number] * len(field.default) if isinstance(field.default, tuple) else number
            try:
                config = build(kind, {field.name: value})
            except InputError as error:
                assert field.name in str(error) and len(str(error)) < 300
            else:
                assert value in (0, [0, 0]) and getattr(config, field.name) in (0, (0, 0))


@pytest.mark.parametrize(
    "mapping",
    [{"attention_heads": 5}, {"speakers": ["a"] * 200_000}, {"channels": [[[]]] * 99}, {"x" * 999: 1}, [1], None],
)
def test_settings_that_are_refused_in_a_short_line(mapping: object) -> None:
    with pytest.raises(InputError) as caught:
        build(ConversionConfig, mapping)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_numbers_without_a_range_of_their_own_are_finite() -> None:
    @dataclasses.dataclass(frozen=True)
    class Some:
        number: float = 0.0

    assert build(Some, {"number": -3}).number == -3
    for value in ("nan", "-inf", 10**400, 1e300):
        with pytest.raises(InputError, match="number: "):
            build(Some, {"number": value})


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 900 + "]" * 900,
        "a: " + "9" * 5000,
        "a: 2001-99-99",
        "base: a.yaml",
        "base: [1]",
        "a: &a [1]\nb: &b [*a, *a]\n" + "".join(f"c{k}: &c{k} [*b, *b]\n" for k in range(3)) + "- x",
    ],
)
def test_yaml_that_asks_for_too_much(tmp_path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yaml") as caught:
        load_yaml(tmp_path / "a.yaml")
    assert len(str(caught.value)) < 500


def test_aliases_within_aliases_are_told_briefly(tmp_path) -> None:
    lines = [
        "a0: &a0 [x, x]",
        *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)),
        "channels: *a29",
    ]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        build(ConversionConfig, {"channels": load_yaml(tmp_path / "a.yaml")["channels"]})
    assert len(str(caught.value)) < 300


def test_a_bad_override_is_one_line(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\n")
    for value in ("[", "[" * 900, "9" * 5000):
        with pytest.raises(InputError, match="--set x"):
            load_yaml(tmp_path / "a.yaml", [f"x={value}"])


def test_settings_of_other_kinds_do_not_matter() -> None:
    config = build(ConversionConfig, {"bottleneck": {"kind": "identity", "groups": 3, "codes": 500, "levels": [2]}})
    assert (config.bottleneck.codes_per_frame, config.bottleneck.code_values) == (0, 0)
    binary = build(ConversionConfig, {"bottleneck": {"kind": "binary", "groups": 3, "quantizers": 4}}).bottleneck
    assert (binary.codes_per_frame, binary.code_values, binary.bits_per_frame) == (3, 512, 27)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words: {"])
def test_bad_yaml_is_one_line(tmp_path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_yaml_and_bad_override(tmp_path) -> None:
    with pytest.raises(InputError, match="no such config file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("x: 1\n")
    with pytest.raises(InputError, match="expected key=value"):
        load_yaml(tmp_path / "a.yaml", ["steps"])


def test_off_in_yaml_is_not_false(tmp_path) -> None:
    pytest.importorskip("torch")
    from vconv.training.conversion_settings import LossConfig

    (tmp_path / "a.yaml").write_text("adversary_kind: off\n")
    assert build(LossConfig, load_yaml(tmp_path / "a.yaml")).adversary_kind == "off"


def test_the_shipped_model_is_in_one_file(tmp_path: Path) -> None:
    """``recipes/base/shipped.yaml`` has every setting, and the model of pretrained/base; it is what it prints."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from vconv.training import configuration

    path = ROOT / "recipes" / "base" / "shipped.yaml"
    config = configuration(path)
    shipped = json.loads((ROOT / "pretrained" / "base" / "config.json").read_text(encoding="utf-8"))
    assert config.model == build(ConversionConfig, shipped["conversion"])
    printed = to_yaml(config)
    assert path.read_text(encoding="utf-8").endswith(printed)
    again = tmp_path / "again.yaml"
    again.write_text(printed, encoding="utf-8")
    assert configuration(again) == config
