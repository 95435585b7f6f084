"""The Python API: a function for each command, documented, and imported only when it is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import vconv
from vconv import api, cli, model_folder
from vconv.errors import InputError

ROOT = Path(__file__).parent.parent
FUNCTIONS = {name for name in vconv.__all__ if name not in ("Converter", "__version__")}
RENAMED = {
    "export": "export_model",  # vconv.export is a module
    "speakers new": "new_voice",
    "speakers move": "move_voice",
    "speakers fit": "fit_population",
    "speakers test": "measure_verification",
}
INTERACTIVE = {"live", "web"}


def commands(group: object, before: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, f"{before}{name} ") if hasattr(command, "commands") else [before + name]
    return found


def test_each_command_has_a_function() -> None:
    app = typer.main.get_command(cli.app)
    expected = {RENAMED.get(name, name.removeprefix("speakers ")) for name in commands(app)} - INTERACTIVE
    assert expected and expected <= FUNCTIONS


def test_the_functions_are_documented() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    for name in FUNCTIONS:
        assert inspect.getdoc(getattr(vconv, name)), name
        assert f".{name}\n" in reference or name in reference.split("::: vconv.api")[1].split("]")[0], name
        assert name in vconv.__doc__, name


def test_the_package_imports_its_functions_when_asked_for() -> None:
    code = "import sys, vconv; assert not {'numpy', 'torch', 'onnxruntime', 'vconv.api'} & set(sys.modules)"
    code += "; vconv.train, vconv.evaluate, vconv.convert; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_loaded_converter_stands_for_its_folder() -> None:
    model = model_folder.default_model()
    converter = vconv.load(model, threads=1)
    assert api.new_voice(3, model=converter).nearest == api.new_voice(3, model=model).nearest
    assert vconv.info(converter)[1] == ("model", str(model))
    same = vconv.verify(*2 * [ROOT / "examples" / "source.flac"], model=converter)
    assert same.same and same.score == pytest.approx(1.0)


def test_errors_are_those_of_the_commands(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        vconv.convert(tmp_path / "a.wav", tmp_path / "b.wav")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vconv.nothing
