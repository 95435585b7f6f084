"""Models that the page offers, of which one is loaded at a time. The job worker alone uses this."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vconv.errors import InputError
from vconv.frontends.pitch import PitchTracker
from vconv.inference.converter import Converter
from vconv.inference.loading import available_cores, load
from vconv.model_folder import default_model
from vconv.voices.check import Checker
from vconv.voices.population import Population, population_of
from vconv.web.inputs import Refusal


@dataclass(frozen=True)
class Loaded:
    """A model and what is known of voices in general; without a population there is no ``checker``."""

    folder: Path
    converter: Converter
    tracker: PitchTracker
    population: Population | None
    checker: Checker | None

    def known_voices(self) -> Population:
        """The population.

        Raises:
            InputError: the model has none.
        """
        return self.population or population_of(self.folder)  # which says what is wrong


class Models:
    """Model folders by name.

    Args:
        folders: the first is the default; none takes the weights that come with vconv.
        device: as for ``vconv.load``.
        threads: CPU threads; None takes all cores.
    """

    def __init__(self, folders: Sequence[Path] = (), device: str = "cpu", threads: int | None = None) -> None:
        self._given = bool(folders)
        self._folders: dict[str, Path] = {}
        for folder in folders or [default_model()]:
            name, number = folder.resolve().name, 2
            while name in self._folders:
                name, number = f"{folder.resolve().name} ({number})", number + 1
            self._folders[name] = folder
        self._device = device
        self.threads = threads or available_cores()
        self._loaded: tuple[str, Loaded] | None = None
        self._populations: dict[str, Population | None] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._folders)

    def option(self, name: str) -> list[str]:
        """Arguments of the command line that choose a model."""
        return ["--model", str(self._folders[self.check(name)])] if self._given else []

    def check(self, name: str) -> str:
        """A name that the page sent; an empty one is the default.

        Raises:
            Refusal: there is no such model.
        """
        name = name or self.names[0]
        if name not in self._folders:
            raise Refusal(404, "there is no such model; reload the page")
        return name

    def population(self, name: str) -> Population | None:
        """The model's population of voices; None where it has none. For any thread."""
        with self._lock:
            if name not in self._populations:
                try:
                    self._populations[name] = population_of(self._folders[name])
                except InputError:
                    self._populations[name] = None
            return self._populations[name]

    def open(self, name: str) -> Loaded:
        """Load a model, unless it is the loaded one.

        Raises:
            InputError: its folder or a file in it is missing or wrong.
        """
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # frees its memory first
            folder, population = self._folders[name], self.population(name)
            converter = load(folder, self._device, self.threads)
            checker = Checker(converter, population) if population else None
            self._loaded = name, Loaded(folder, converter, PitchTracker(self.threads), population, checker)
        return self._loaded[1]
