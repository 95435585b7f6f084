"""What is installed: metadata, the contents of the wheel, and who may import what."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

import vconv

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "vconv").rglob("*.py"))
TORCH_PACKAGES = {"torch", "accelerate", "safetensors", "onnx", "onnxscript", "librosa", "tensorboard"}
TORCH_PLACES = (
    "benchmarks/input.py",
    "data/device/",
    "models/",
    "training/",
    "export/",
    "inference/torch_engine.py",
    "evaluation/judges.py",
    "evaluation/alignment.py",
)
# Data flows one way: no module imports one of a later layer.
LAYERS = (
    (
        "errors.py",
        "config.py",
        "config_files.py",
        "processes.py",
        "signals.py",
        "files.py",
        "untrusted.py",
        "digests.py",
        "opening.py",
        "graphs.py",
    ),
    ("audio/", "model_folder.py", "stft.py"),
    ("features.py",),
    (
        "excitation.py",
        "equalizer.py",
        "frontends/",
        "voice.py",
        "evaluation/periodicity.py",
        "evaluation/copy_synthesis.py",
    ),
    ("tokens/", "data/"),
    ("models/",),
    ("training/",),
    ("inference/", "live/"),
    ("voices/",),
    ("batch/", "export/"),
    ("evaluation/",),
    ("api.py",),
    ("web/",),
    ("cli/", "__main__.py", "benchmarks/"),
)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; hatchling.build.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True)
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def requirements(metadata: Message) -> dict[str, str | None]:
    """Names of the required packages, each with its extra."""
    found = {}
    for line in metadata.get_all("Requires-Dist"):
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        found[re.match(r"[\w.-]+", line).group().lower()] = extra and extra.group(1)
    return found


def test_the_wheel_holds_the_package_and_the_weights(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    weights = ROOT / "pretrained" / "base"
    expected = {path.relative_to(ROOT).as_posix() for path in SOURCES} | {"vconv/py.typed"}
    expected |= {f"vconv/pretrained/base/{path.name}" for path in weights.iterdir()}
    expected |= {"vconv/evaluation/report.html.jinja", "vconv/frontends/pitch.onnx"}
    expected |= {f"vconv/web/static/{path.name}" for path in (ROOT / "vconv" / "web" / "static").iterdir()}
    assert names == expected
    assert {"vconv/pretrained/base/config.json", "vconv/pretrained/base/vocoder.onnx"} <= names


def test_the_weights_are_found_where_the_wheel_puts_them(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import vconv.model_folder as folder; print(folder.default_model())"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == (tmp_path / "vconv" / "pretrained" / "base").resolve()


def test_metadata(metadata: Message, wheel: zipfile.ZipFile) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("vconv", vconv.__version__)
    assert metadata["License-Expression"] == "MIT"
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "vconv = vconv.cli:main" in wheel.read(entry_points).decode()


def test_the_core_install_is_small(metadata: Message) -> None:
    core = {name for name, extra in requirements(metadata).items() if extra is None}
    assert core == {"numpy", "onnxruntime", "rich", "soundfile", "soxr", "typer"}


def test_every_requirement_is_pinned(metadata: Message) -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.partition(";")[0].strip().split("==") for line in lines)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    assert set(requirements(metadata)) - {"vconv"} <= pins.keys()
    assert pins["torch"] == "2.13.0"
    assert not [version for version in pins.values() if "+" in version]


# ---------------------------------------------------------------- imports


def place(path: Path) -> str:
    return path.relative_to(ROOT / "vconv").as_posix()


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it, but for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = set()
    for node in set(ast.walk(tree)) - for_types:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(module_place: str) -> int | None:
    for number, places in enumerate(LAYERS):
        if module_place.startswith(places):
            return number
    return None


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_torch_is_imported_only_where_it_may_be(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imported(path)}
    assert place(path).startswith(TORCH_PLACES) or not packages & TORCH_PACKAGES


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_no_module_imports_the_one_above_it(path: Path) -> None:
    own = layer(place(path))
    if place(path) == "__init__.py":  # the public names, imported when they are asked for
        return
    assert own is not None, f"{place(path)}: in which layer is it?"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "vconv" and len(parts) > 1:
            within = "/".join(parts[1:3])
            for candidate in (f"{parts[1]}.py", f"{within}.py" if len(parts) > 2 else f"{within}/"):
                other = layer(candidate)
                assert other is None or other <= own, f"{place(path)} imports {name}"


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Inside packages too; imports within functions count, those for types alone do not."""
    modules = {module_name(path): path for path in SOURCES if path.name != "__init__.py"}
    waiting = {name: {other for other in imported(path) if other in modules} for name, path in modules.items()}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"in circles, or behind them: {', '.join(sorted(waiting))}"


def module_name(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def test_conversion_needs_nothing_of_the_train_extra() -> None:
    """With the extra's packages blocked, every module of inference and the command line can be imported."""
    code = f"import sys\nfor name in {sorted(TORCH_PACKAGES | {'yaml'})}: sys.modules[name] = None\n"
    code += (
        "import vconv, vconv.cli, vconv.data.manifest, vconv.batch, vconv.voices.mixing\nvconv.load, vconv.Converter\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
