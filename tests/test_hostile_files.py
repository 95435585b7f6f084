"""Files from strangers: refused in one line and in bounded memory, and nothing garbled is ever written."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vconv
from tests.conftest import speech
from vconv import audio, digests
from vconv.errors import InputError, VconvError
from vconv.evaluation.tables import to_csv
from vconv.features import N_MELS
from vconv.graphs import check_external_data, open_graph
from vconv.inference import Converter
from vconv.untrusted import MAX_DEPTH, load_arrays, parse_json
from vconv.voice import Reference, Voice
from vconv.voices.population import Population


def a_voice(**changes: object) -> dict[str, np.ndarray]:
    """The arrays of a voice's file, 24 entries in its embedding."""
    arrays = {
        "embedding": np.full(24, 24**-0.5, np.float32),
        "log_f0": np.float64(0.1),
        "log_f0_spread": np.float64(0.2),
        "reference_content": np.zeros((32, 10), np.float16),
        "reference_mel": np.zeros((N_MELS, 20), np.float16),
        "adapter": np.zeros(0, np.float16),
        "correction": np.ones((N_MELS, 2 + N_MELS), np.float16),
        "model": np.zeros(0, np.uint8),
    }
    return arrays | {name: np.asarray(value) for name, value in changes.items()}


# ---------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("name", ["embedding", "reference_content", "reference_mel", "adapter", "correction", "log_f0"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voice_with_a_number_that_is_not_finite(tmp_path: Path, name: str, value: float) -> None:
    arrays = a_voice(adapter=np.zeros((2, 3), np.float16))
    if name == "log_f0":
        value = np.inf  # NaN stands for an unknown register
    arrays[name] = np.array(arrays[name])
    arrays[name].flat[-1] = value
    np.savez(tmp_path / "voice.npz", **arrays)
    with pytest.raises(InputError, match=r"voice\.npz.*not finite"):
        Voice.load(tmp_path / "voice.npz")


def test_a_voice_given_as_an_object_is_checked(toy: Converter) -> None:
    voice = Voice(np.ones(4), None, Reference(np.full((N_MELS, 2), np.nan), np.zeros((N_MELS, 4))))
    with pytest.raises(InputError, match="reference content holds numbers that are not finite"):
        toy.convert((speech(1.0), 16000), voice)
    with pytest.raises(InputError, match="not finite"):
        toy.convert((speech(1.0), 16000), np.array([1.0, np.nan, 0.0, 0.0]))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_networks_that_give_nan_write_nothing(
    toy: Converter, toy_engine: object, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = toy_engine.vocode
    monkeypatch.setattr(toy_engine, "vocode", lambda *given: np.where(whole(*given) > 0, np.float32(np.nan), 0))
    with pytest.raises(VconvError, match="not finite, and nothing was written") as caught:
        toy.convert_file((speech(1.0), 16000), (speech(1.0, f0=200), 16000), tmp_path / f"out.{suffix}")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_network_that_gives_nan_makes_no_voice(
    toy: Converter, toy_engine: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy_engine, "speaker", lambda utterance: np.full(4, np.nan, np.float32))
    audio.write(tmp_path / "a.wav", speech(1.0), 16000)
    with pytest.raises(VconvError, match="not finite"):
        toy.voice(tmp_path / "a.wav")
    with pytest.raises(VconvError, match="not finite"):
        toy.encode(tmp_path / "a.wav")
    with pytest.raises(VconvError, match=r"v\.npz: not written"):
        Voice(np.full(4, np.nan), None).save(tmp_path / "v.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("level", [1e13, 3e38])
def test_gigantic_samples_are_refused(tmp_path: Path, level: float) -> None:
    """They are finite, but not after resampling."""
    wave = np.array(speech(0.5, 48000), np.float32)
    wave[:9999:2], wave[1:9999:2] = level, -level
    soundfile.write(tmp_path / "a.wav", wave, 48000, "FLOAT")
    with pytest.raises(InputError, match=r"a\.wav: contains NaN or infinite samples, or gigantic ones"):
        list(audio.BlockReader(tmp_path / "a.wav", 16000))


# ---------------------------------------------------------------- archives


def test_a_reference_of_ten_hours_is_refused_unread(tmp_path: Path) -> None:
    frames = 36000 * 31
    np.savez_compressed(tmp_path / "voice.npz", **a_voice(reference_content=np.zeros((32, frames), np.float16)))
    with pytest.raises(InputError, match="reference_content is 32 x 1116000, at most"):
        Voice.load(tmp_path / "voice.npz")


def test_a_header_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    path, arrays = tmp_path / "voice.npz", a_voice()
    del arrays["adapter"]
    np.savez(path, **arrays)
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    with zipfile.ZipFile(path, "a") as archive, archive.open("adapter.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match="adapter is 1048576 x 1048576"):
        Voice.load(path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("embedding", np.array(["a" * 4000])),
        ("embedding", np.zeros(24, complex)),
        ("embedding", np.array([None])),
        ("reference_mel", np.zeros((N_MELS, 20, 1))),
        ("log_f0", np.zeros(3)),
        ("correction", np.zeros((N_MELS, 3 + N_MELS))),
        ("correction", np.zeros((N_MELS, 1 + N_MELS))),
        ("correction", np.zeros((2, 2 + N_MELS))),
        ("correction", np.array(["a" * 4000])),
    ],
)
def test_arrays_of_another_kind(tmp_path: Path, name: str, array: np.ndarray) -> None:
    np.savez(tmp_path / "voice.npz", **a_voice(**{name: array}))
    with pytest.raises(InputError, match="holds no voice"):
        Voice.load(tmp_path / "voice.npz")


def test_archives_of_other_compressions_and_encrypted_ones(tmp_path: Path) -> None:
    path = tmp_path / "voice.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("embedding.npy", b"\x93NUMPY\x01\x00" + bytes(100))
    with pytest.raises(InputError, match=r"holds no voice.*compressed"):
        Voice.load(path)
    np.savez(path, **a_voice())
    data = bytearray(path.read_bytes())
    for start in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[start] |= 1  # encrypted
    path.write_bytes(data)
    with pytest.raises(InputError, match="holds no voice"):
        Voice.load(path)


def test_every_cut_and_every_flipped_byte_of_a_voice_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "voice.npz"
    np.savez(path, **a_voice())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(300):
        data = bytearray(whole)
        if number % 3:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        else:
            del data[int(rng.integers(len(data))) :]
        path.write_bytes(data)
        try:
            Voice.load(path).check("it")
        except InputError:
            refused += 1
    assert refused > 100


def test_arrays_by_name_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", wanted=np.arange(3), other=np.array([None]))
    found = load_arrays(tmp_path / "a.npz", {"wanted": (5,), "missing": (1,)}, "numbers", "make it again")
    assert list(found) == ["wanted"] and found["wanted"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"a\.npz: holds no numbers \(wanted is 3, at most 2 can be\); make it again"):
        load_arrays(tmp_path / "a.npz", {"wanted": (2,)}, "numbers", "make it again")


def test_a_population_whose_arrays_do_not_fit_together(model: Path, tmp_path: Path) -> None:
    from tests.conftest import BASE_MODEL

    if not (BASE_MODEL / "population.npz").exists():
        pytest.skip("no population without the shipped weights")
    with np.load(BASE_MODEL / "population.npz") as file:
        arrays = dict(file)
    for name, value in {
        "voices.rest": np.float64(np.nan),
        "voices.mean": arrays["voices.mean"][1:],
        "clips.deviations": -arrays["clips.deviations"],
        "speakers": np.zeros_like(arrays["speakers"]),
        "joint": -arrays["joint"],
    }.items():
        np.savez(tmp_path / "population.npz", **(arrays | {name: value}))
        with pytest.raises(InputError, match=r"population\.npz"):
            Population.load(tmp_path / "population.npz")


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_json_that_is_nested_deeply(depth: int) -> None:
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json("[" * depth + "]" * depth)
    with pytest.raises(ValueError, match="nested deeper"):
        parse_json('{"a":' * depth + "1" + "}" * depth)
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


# ---------------------------------------------------------------- graphs


def graph(path: Path, location: str, where: str = "initializer") -> Path:
    """A graph of which one tensor [4] lies elsewhere."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    if where == "constant":
        nodes, tensors = [helper.make_node("Constant", [], ["y"], value=tensor)], []
    else:
        nodes, tensors = [helper.make_node("Identity", ["w"], ["y"])], [tensor]
    out, opset = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4]), [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [out], tensors), opset_imports=opset, ir_version=10)
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False)
    return path


@pytest.mark.parametrize("where", ["initializer", "constant"])
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "sub/secret.bin", "..\\secret.bin", "..", ""])
def test_a_graph_that_reads_outside_of_its_folder(tmp_path: Path, location: str, where: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        (place / "secret.bin").write_bytes(bytes(16))
    with pytest.raises(InputError, match=r"g\.onnx: reads .* not in its folder"):
        open_graph(graph(folder / "g.onnx", location, where), 1)


def test_a_graph_that_reads_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match=r"w\.bin: is a link"):
        open_graph(graph(folder / "g.onnx", "w.bin"), 1)
    (folder / "w.bin").unlink()
    with pytest.raises(InputError, match=r"w\.bin: is missing"):
        open_graph(graph(folder / "g.onnx", "w.bin"), 1)
    shutil.copy(tmp_path / "secret.bin", folder / "w.bin")
    (found,) = open_graph(graph(folder / "g.onnx", "w.bin"), 1).run(None, {})
    assert found.tolist() == [0, 1, 2, 3]


def test_the_last_of_two_places_counts_too(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(16))
    entry = b"\x0a\x08location\x12\x05w.bin"
    twice = entry + b"\x12\x05../ab"
    data = path.read_bytes()
    start = data.index(entry)
    grown = bytearray(data.replace(entry, twice))
    growth = len(twice) - len(entry)
    tensor, whole = data.rindex(b"\x2a", 0, start), data.index(b"\x3a")
    for size in (start - 1, tensor + 1, whole + 1):  # of the entry, the tensor, the graph
        grown[size] += growth
    path.write_bytes(grown)
    with pytest.raises(InputError, match=r"reads '\.\./ab'"):
        check_external_data(path)


@pytest.mark.parametrize("data", [b"", b"location", b"\x3a\xff\xff\xff\xff\x0flocation", b"\x0b" + b"location" * 9])
def test_what_is_no_graph(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"g\.onnx: is not a working ONNX graph"):
        open_graph(tmp_path / "g.onnx", 1)


# ---------------------------------------------------------------- spreadsheets


def test_cells_that_a_spreadsheet_would_compute() -> None:
    cells = ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", ' =HYPERLINK("x")']
    table = to_csv([["text", *cells], [-3.5, "-3.5", "1e-3", "fine", "a=b"]])
    lines = table.splitlines() if "\r" not in table else table.split("\n")
    assert all(f"'{cell}" in table.replace('""', '"') for cell in cells)
    assert lines[1] == "-3.5,-3.5,1e-3,fine,a=b"


# ---------------------------------------------------------------- digests of a model folder


@pytest.fixture
def own_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to damage, of long ago; what is remembered of it is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SLOW_SECONDS", 0.0)
    folder = shutil.copytree(model, tmp_path / "model")
    for file in folder.iterdir():
        os.utime(file, (10**9, 10**9))
    return folder


DAMAGE: dict[str, Callable[[bytearray], None]] = {
    "zeroed": lambda data: data.__setitem__(slice(-8192, -4096), bytes(4096)),
    "flipped": lambda data: data.__setitem__(-100, data[-100] ^ 64),
    "longer": lambda data: data.extend(b"0"),
    "shorter": lambda data: data.__delitem__(slice(-1, None)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["vocoder.safetensors", "decoder.onnx"])
def test_damaged_weights_are_refused_though_they_were_whole_before(own_model: Path, name: str, kind: str) -> None:
    vconv.load(own_model)
    path = own_model / name
    data = bytearray(path.read_bytes())
    DAMAGE[kind](data)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: is damaged or was changed.*download the model again"):
        vconv.load(own_model)


def test_files_that_were_whole_are_not_read_again(own_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    digest = digests.digest
    monkeypatch.setattr(digests, "digest", lambda path: hashed.append(Path(path).name) or digest(path))
    vconv.load(own_model)
    assert "vocoder.safetensors" in hashed
    hashed.clear()
    vconv.load(own_model)
    assert not hashed
    (own_model / "vocoder.onnx").touch()
    vconv.load(own_model)
    vconv.load(own_model)
    assert hashed == ["vocoder.onnx"] * 2  # changed a moment ago, it may change again within the same tick of the clock


@pytest.mark.parametrize("memory", ["", "[]", '{"a": 1}', "[" * 100_000])
def test_a_damaged_memory_of_digests_is_none(own_model: Path, memory: str, tmp_path: Path) -> None:
    (tmp_path / "cache" / "vconv").mkdir(parents=True)
    place = tmp_path / "cache" / "vconv" / "verified.json"
    place.write_text(memory)
    vconv.load(own_model)
    assert str(own_model / "vocoder.onnx") in json.loads(place.read_text())


def test_without_a_place_to_remember_it_loads(own_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert vconv.load(own_model)


def test_files_that_config_does_not_name(own_model: Path) -> None:
    path = own_model / "config.json"
    config = json.loads(path.read_text())
    del config["sha256"]["vocoder.onnx"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: records no digest of vocoder\.onnx"):
        vconv.load(own_model)
    path.write_text(json.dumps(config | {"sha256": {"vocoder.onnx": 3}}))
    with pytest.raises(InputError, match="is not a model's config"):
        vconv.load(own_model)


def test_a_config_that_describes_another_network_than_the_graphs(own_model: Path) -> None:
    path = own_model / "config.json"
    config = json.loads(path.read_text())
    config["conversion"]["decoder_blocks"] = [1, 9]  # of a voice's adapter, too
    path.write_text(json.dumps(config))
    clip = speech(0.5), 16000
    with pytest.raises(InputError, match=r"decoder\.onnx: does not fit config\.json"):
        vconv.load(own_model, threads=1).convert(clip, clip)


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from vconv.config import ConversionConfig, VocoderConfig
    from vconv.export import write_model
    from vconv.models.conversion import ConversionModel
    from vconv.models.vocoder import Vocoder

    vocoder = Vocoder(VocoderConfig(channels=8, blocks=1))
    with torch.no_grad():
        next(vocoder.parameters()).flatten()[0] = torch.nan
    conversion = ConversionModel(
        ConversionConfig(channels=8, decoder_channels=8, speaker_blocks=1, content_blocks=(1, 1))
    )
    with pytest.raises(VconvError, match=r"not written.*not finite"):
        write_model(tmp_path / "model", conversion, vocoder)
    assert not (tmp_path / "model").exists()


def test_a_configuration_of_a_giant_takes_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from vconv.config import ConversionConfig
    from vconv.models import saved
    from vconv.models.conversion import ConversionModel

    (tmp_path / "conversion.safetensors").write_bytes(bytes(1000))
    giant = ConversionConfig(channels=1024, content_blocks=(64, 64), expansion=16)
    with pytest.raises(InputError, match="fewer weights than"):
        saved.make(ConversionModel, giant, tmp_path / "conversion.safetensors")


def test_an_array_whose_header_breaks_off_is_told(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, \n"
    path = tmp_path / "voice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embedding.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    with pytest.raises(InputError, match=r"voice\.npz: holds no"):
        Voice.load(path)
