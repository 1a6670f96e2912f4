"""One file, as this program reads it and as the real loader does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import converter
from tests.wild.loaders import digest

#: Of a file that is refused: not read by design.
_OTHERS = ("a net of another kind", "unpack it first", "a pickle of joblib")
_COREML = ".mlpackage"


@dataclass
class Outcome:
    """tensors: how many this program names. listed: tensors that it names as left out, with the reason."""

    package: str
    file: str
    format: str = ""
    tensors: int = 0
    lost: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    listed: int = 0
    refused: str = ""
    loader: str = ""  # why the real loader could not be asked

    @property
    def rightly(self) -> str:
        """Why the refusal is right; "" where it is not."""
        if _COREML in self.file or any(other in self.refused for other in _OTHERS):
            return "another format"
        return "" if self.lost or self.loader else "the real loader finds no tensor in it"


def outcomes(package: str, folder: Path, files: Iterable[Path]) -> list[Outcome]:
    """Each file read, and compared with what one child process says of all."""
    files = list(files)
    found = [_read(package, path, str(path.relative_to(folder))) for path in files]
    question = [[str(path), sorted(own)] for path, (_, own, _) in zip(files, found, strict=True)]
    child = [sys.executable, "-m", "tests.wild.loaders"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    asked = json.dumps(question)
    answer = subprocess.run(child, input=asked, capture_output=True, text=True, env=environment, check=False)
    if answer.returncode:
        raise RuntimeError(f"{package}: the real loaders ended with {answer.returncode}: {answer.stderr[-2000:]}")
    for truth, (outcome, own, left_out) in zip(json.loads(answer.stdout), found, strict=True):
        if isinstance(truth, str):
            outcome.loader = truth
        else:
            _compare(outcome, own, left_out, truth)
    return [outcome for outcome, _, _ in found]


def _read(package: str, path: Path, file: str) -> tuple[Outcome, dict[str, str], list[str]]:
    outcome = Outcome(package, file)
    own: dict[str, str] = {}
    left_out: list[str] = []
    try:
        with converter.open(path) as weights:
            outcome.format, outcome.tensors = weights.format.name, len(weights)
            own = {name: digest(array) for name, array in weights.items()}
            left_out = [item.name for item in weights.contents.left_out]
            own |= {alias: own[name] for alias, name in weights.contents.links.items() if name in own}
    except converter.ConversionError as error:
        outcome.refused = str(error).removeprefix(f"{path}: ")
    return outcome, own, left_out


def _parts(name: str) -> tuple[str, ...]:
    return tuple(re.split(r"[/.]", name))


def _compare(outcome: Outcome, own: Mapping[str, str], left_out: Iterable[str], truth: Mapping[str, str]) -> None:
    """A tensor has the name of the real loader, or the end of it, behind the keys that lead to the weights."""
    names = {_parts(name): name for name in own}
    listed = {_parts(name) for name in left_out}
    met: set[str] = set()
    lost, wrong = [], []
    for name, real in truth.items():
        parts = _parts(name)
        if any(parts[first:last] in listed for first in range(len(parts)) for last in range(first + 1, len(parts) + 1)):
            outcome.listed += 1
            continue
        mine = next((names[parts[first:]] for first in range(len(parts)) if parts[first:] in names), None)
        if mine is None:
            lost.append(name)
            continue
        met.add(mine)
        if own[mine] != real:
            wrong.append(f"{name}: {own[mine]} instead of {real}")
    aliases = {own[name] for name in met}
    wrong += [f"{name}: unknown to the real loader" for name in own if name not in met and own[name] not in aliases]
    outcome.lost, outcome.wrong = tuple(lost), tuple(wrong)
