"""SavedModel folders: the checkpoint in ``variables/``; the graph in ``saved_model.pb`` is never run."""

from __future__ import annotations

from contextlib import closing
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.errors import FormatError
from converter.formats.base import Probe, ReadOptions
from converter.formats.io.files import Beside
from converter.formats.tensorflow import checkpoint as tf_checkpoint
from converter.formats.tensorflow.protowire import Message, WireError

_GRAPH = "saved_model.pb"
_VARIABLES = "variables"


def detect(probe: Probe) -> bool:
    try:
        return probe.is_dir and _GRAPH in probe.entries
    except OSError:
        return False


class FileReader(tf_checkpoint.FileReader):
    """Reads the variables like any checkpoint; the writer's version is in the graph file."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        inner = path / _VARIABLES / _VARIABLES
        if not inner.with_name(f"{_VARIABLES}.index").is_file():
            raise FormatError(path, "a SavedModel without variables: it holds no weights")
        super().__init__(inner, options, Beside(path))
        self._folder = path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._folder,)

    @cached_property
    def contents(self) -> Contents:
        return replace(super().contents, writer=_writer(self._folder))


def _writer(folder: Path) -> str:
    """SavedModel.meta_graphs = 2 {meta_info_def = 1 {tensorflow_version = 5}}; "" when it does not say."""
    try:
        with closing(Beside(folder).open(folder / _GRAPH)) as source:
            with source.budget.lent(source.size, "the graph"):
                return _version(source.take(0, source.size, "the graph"))
    except (FormatError, ValueError, WireError):
        return ""


def _version(data: bytes) -> str:
    for graph in Message(data).messages(2):
        if version := Message(graph.data(1)).text(5):
            return f"tensorflow {version}"
    return ""
