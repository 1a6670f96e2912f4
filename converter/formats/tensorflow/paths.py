"""Which checkpoint a path means: a prefix, its index, one of its data files, or a folder of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from converter.errors import FormatError
from converter.formats.io.files import Beside

INDEX = ".index"
STATE_FILE = "checkpoint"
_DATA = re.compile(r"(.+)\.data-\d{5,}-of-\d{5,}")
_STATE = re.compile(rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_NUMBERED = re.compile(r"(.*)-(\d{1,18})", re.DOTALL)
_MOST_STATE_BYTES = 1 << 20


def prefix_of(path: Path) -> Path | None:
    """The prefix that the name itself gives: of an index, a data file, or what has an index beside it."""
    name = path.name
    if name.endswith(INDEX) and name != INDEX and path.is_file():
        return path.with_name(name.removesuffix(INDEX))
    data = _DATA.fullmatch(name)
    for stem in (data[1] if data else None, name):
        if stem and not (stem == name and path.is_file()) and path.with_name(stem + INDEX).is_file():
            return path.with_name(stem)
    return None


def find_prefix(path: Path, step: int | None) -> Path:
    """The prefix of the checkpoint that ``path`` means. Raises FormatError, listing several candidates."""
    prefix = prefix_of(path)
    if prefix is not None:
        if step is not None:
            raise FormatError(path, f"is one checkpoint, and step {step} is for a folder of them")
        return prefix
    folder = folder_of(path)
    if folder is None:
        raise FormatError(path, f"not a checkpoint: there is no '{path.name}{INDEX}'")
    inner = folder / "variables"
    if not indexes(folder) and indexes(inner):
        folder = inner
    return folder / choose(path, folder, indexes(folder), step)


def folder_of(path: Path) -> Path | None:
    """The folder of checkpoints that is meant: itself, or that of its state file ``checkpoint``."""
    if path.is_dir():
        return path
    return path.parent if path.name == STATE_FILE and state_of(path.parent) is not None else None


def indexes(folder: Path) -> list[str]:
    """The prefixes in a folder, by the names of their indexes."""
    return sorted(stem for name in names_in(folder) if name.endswith(INDEX) and (stem := name.removesuffix(INDEX)))


def names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def state_of(folder: Path) -> str | None:
    """The newest checkpoint's name, by the state file: only its last part, for folders get moved."""
    path = folder / STATE_FILE
    try:
        with closing(Beside(folder).open(path)) as source:
            state = _STATE.search(source.take(0, min(source.size, _MOST_STATE_BYTES), "it"))
    except (OSError, FormatError):
        return None
    if state is None:
        return None
    plain = re.sub(rb"\\([0-7]{1,3})", lambda octal: bytes([int(octal[1], 8) & 0xFF]), state[1])
    plain = re.sub(rb"\\(.)", rb"\1", plain, flags=re.DOTALL)
    return re.split(r"[/\\]", plain.decode("utf-8", "replace"))[-1] or None


def choose(path: Path, folder: Path, names: Sequence[str], step: int | None) -> str:
    """One of the checkpoints of a folder: of the step, the newest by the state file, the only, the highest."""
    if not names:
        raise FormatError(path, f"the folder holds no TensorFlow checkpoint (no file *{INDEX})")
    numbers = {name: match for name in names if (match := _NUMBERED.fullmatch(name))}
    if step is not None:
        return _only(
            path, [name for name, match in numbers.items() if int(match[2]) == step], names, f" of step {step}"
        )
    newest = state_of(folder)
    if newest in names:
        return str(newest)
    if len(numbers) == len(names) and len({match[1] for match in numbers.values()}) == 1:
        return max(names, key=lambda name: int(numbers[name][2]))
    return _only(path, names, names, "")


def _only(path: Path, candidates: Sequence[str], names: Iterable[str], which: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(f"'{name}'" for name in list(candidates or names)[:20])
    if candidates:
        raise FormatError(path, f"the folder holds several checkpoints{which}: {listed}. Name one of them.")
    raise FormatError(path, f"the folder holds no checkpoint{which}, only {listed}")
