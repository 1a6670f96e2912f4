"""A folder of training steps: ``flax.training.checkpoints.save_checkpoint`` or an Orbax ``CheckpointManager``.

Names: ``checkpoint_3`` (Flax, a msgpack file or an Orbax folder), ``3``, ``step_00003`` (Orbax). Steps compare
as numbers, as flax's ``natural_sort`` does. One of them is read; a user may also name it directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats.base import Opening, Probe, Reader, ReadOptions
from converter.formats.flax import msgpack as flax_msgpack
from converter.formats.flax import orbax
from converter.formats.io.files import beside

__all__ = ["FileReader", "detect"]

#: flax takes whole and fractional steps.
_STEP = re.compile(r"(?P<prefix>|.*?[^\d.])(?P<number>\d{1,40}(?:\.\d{1,40})?)")
#: What stands in a folder that is itself a checkpoint, or a step with items.
_ONE_CHECKPOINT = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
USUAL_PREFIX = "checkpoint_"
_MODULES = (orbax, flax_msgpack)


class SavedStep(msgspec.Struct, frozen=True):
    """One checkpoint in the folder."""

    number: Decimal
    prefix: str
    path: Path


def detect(probe: Probe) -> bool:
    if not probe.is_dir:
        return False
    try:
        is_one = not probe.entries.isdisjoint(_ONE_CHECKPOINT)
        return not is_one and any(_is_checkpoint(step.path) for step in _steps(probe.path))
    except (OSError, FormatError):
        return False


class FileReader(Reader):
    """The chosen step, read by its own format. Raises FormatError when there is no such step."""

    takes = frozenset({"step", "key"})

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        try:
            steps = _steps(path)
            self.step = _chosen(path, steps, options.step)
            beside(path, self.step.path)
            module = next((module for module in _MODULES if module.detect(Probe(self.step.path))), None)
        except OSError as error:
            raise FormatError(path, f"cannot be read: {error.strerror or error}") from None
        if module is None:
            raise FormatError(self.step.path, "is neither an Orbax checkpoint nor Flax msgpack, or it is damaged")
        self._inner: Reader = module.FileReader(self.step.path, options)
        others = sorted({step.prefix for step in steps} - {self.step.prefix})
        lines = tuple(
            LeftOut(f"{prefix}*", "checkpoints of another name; name one of them to read it") for prefix in others
        )
        inner = self._inner.contents
        self._contents = Contents(inner.specs, inner.container, left_out=(*inner.left_out, *lines))

    @property
    def contents(self) -> Contents:
        return self._contents

    def read(self, name: str) -> Array:
        return self._inner.read(name)

    def training(self) -> Mapping[str, Any]:
        return self._inner.training()

    @property
    def files(self) -> tuple[Path, ...]:
        return self._inner.files

    @property
    def opening(self) -> Opening:
        return self._inner.opening

    def close(self) -> None:
        self._inner.close()


def _steps(folder: Path) -> list[SavedStep]:
    """What may be a step by its name, the oldest first."""
    steps = []
    for child in folder.iterdir():
        match = _STEP.fullmatch(child.name)
        if match and not child.name.startswith(".") and not _is_foreign(child):
            steps.append(SavedStep(Decimal(match["number"]), match["prefix"], child))
    return sorted(steps, key=lambda step: (step.number, step.path.name))


def _is_foreign(path: Path) -> bool:
    """TensorBoard's event files have a number at the end too."""
    return "tfevents" in path.name or "tmp" in path.name.split("-")


def _chosen(folder: Path, candidates: list[SavedStep], number: int | None) -> SavedStep:
    """The step of that number, or the newest whole one. Raises FormatError naming those that there are."""
    prefixes = {step.prefix for step in candidates if _is_checkpoint(step.path)}
    if len(prefixes) > 1 and USUAL_PREFIX not in prefixes:
        names = ", ".join(f"'{prefix}*'" for prefix in sorted(prefixes)[:10])
        raise FormatError(folder, f"holds checkpoints of several names: {names}. Name the one to read.")
    prefix = USUAL_PREFIX if USUAL_PREFIX in prefixes else next(iter(prefixes), "")
    steps = [step for step in candidates if step.prefix == prefix]
    if not steps:
        raise FormatError(folder, "holds no step of a checkpoint, or the newest is damaged")
    if number is None:
        return steps[-1]
    wanted = [step for step in steps if step.number == number]
    if not wanted:
        raise FormatError(
            folder, f"has no step {number}; there are {', '.join(str(step.number) for step in steps[-20:])}"
        )
    return wanted[-1]


def _is_checkpoint(path: Path) -> bool:
    probe = Probe(path)
    return any(module.detect(probe) for module in _MODULES)
