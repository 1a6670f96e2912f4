"""Whole processes: their seconds and the most memory that each had, run in turn so that noise falls on all alike."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CONVERT = str(Path(sys.executable).with_name("convert"))
#: Quiet frameworks on the CPU.
ENVIRONMENT = {
    **os.environ,
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(HERE.parent),
}


@dataclass(frozen=True)
class Run:
    """One run of one command. peak: bytes, resident."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Runs:
    """All runs of one command."""

    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def spread(self) -> str:
        times = [run.seconds for run in self.runs]
        return f"{min(times):.2f} to {max(times):.2f}"

    @property
    def peak(self) -> int:
        return max(run.peak for run in self.runs)

    def times(self, other: Runs) -> float:
        """How many times as long as the other: the median over the rounds."""
        return statistics.median(a.seconds / b.seconds for a, b in zip(self.runs, other.runs, strict=True))


def run(command: Sequence[str]) -> Run:
    """Raises RuntimeError with what the command said."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {said.read().decode()[-2000:]}")
    return Run(seconds, usage.ru_maxrss << 10)


def in_turn(commands: Mapping[str, tuple[Sequence[str], Path | None]], rounds: int) -> dict[str, Runs]:
    """name -> (command, what it writes): the runs of each, after one round that does not count if there are many.

    What was written is removed at once, but for that it is measured: all commands find the same free memory.
    """
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(rounds + (rounds > 2)):
        for name, (command, output) in commands.items():
            done = run(command)
            if output is not None:
                remove(output)
            if number or rounds <= 2:
                found[name].append(done)
    return {name: Runs(tuple(runs)) for name, runs in found.items()}


def remove(path: Path) -> None:
    """The file, the folder, or the files that start with its name."""
    for item in [path, *path.parent.glob(path.name + ".*")]:
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink(missing_ok=True)


def script(name: str, *args: object) -> list[str]:
    """The command that runs a script by hand."""
    return [sys.executable, str(HERE / "by_hand" / f"{name}.py"), *map(str, args)]


def ours(direction: str, source: Path, output: Path, *options: str) -> list[str]:
    """The command of this program."""
    return [CONVERT, direction, str(source), "-o", str(output), "--force", "--json", *options]


def inspect(path: Path) -> list[str]:
    """The command of this program that lists a file."""
    return [sys.executable, "-m", "converter", "inspect", str(path), "--json"]


def size_of(path: Path) -> int:
    """Bytes of a file, a folder, or a checkpoint prefix."""
    files: Iterable[Path] = [path] if path.is_file() else [*path.rglob("*"), *path.parent.glob(path.name + ".*")]
    return sum(file.stat().st_size for file in files if file.is_file())
