"""Configs: what fits is taken, what does not is named."""

from __future__ import annotations

import dataclasses

import pytest

from vconv.config import ConversionConfig, build, load_yaml
from vconv.errors import InputError

pytest.importorskip("yaml")


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
        ({"bottleneck": {"kind": "magic"}}, "bottleneck: kind: expected one of vq, identity, got 'magic'"),
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
    from vconv.training.conversion import LossConfig

    (tmp_path / "a.yaml").write_text("adversary_kind: off\n")
    assert build(LossConfig, load_yaml(tmp_path / "a.yaml")).adversary_kind == "off"
