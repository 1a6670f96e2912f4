"""Shards on a Dask cluster: what one worker does, what planning and tasks cost, and what follows for 1.4 TB on many.

    python -m benchmarks.machines [--size 1.5GB] [--rounds 3] [--folder /dev/shm]

Everything is done in a temporary folder there, which should be in memory (tmpfs) so that no disk is measured. Replaces
the figures of docs/machines.md.
"""

from __future__ import annotations

import filecmp
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import distributed
import numpy as np

import converter
from converter.core.tensors import DTYPES, TensorSpec
from converter.formats import Contents, by_name, open_writer
from converter.option_values import parse_size

PAGE = Path(__file__).parent.parent / "docs" / "machines.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
INDEX = ".safetensors.index.json"
#: A matrix of a large language model, 32 MiB in bfloat16.
MATRIX = (4096, 4096)
DTYPE = DTYPES["bfloat16"]
#: Titles and directions: nothing is moved within a tensor, every matrix is transposed.
WORKS = {"torch → torch, moves only": "torch->torch", "torch → Flax, all transposed": "torch->flax"}
#: Tiny tensors of the runs that show what planning costs, and shards of those that show what a task costs.
FEW, MANY = 2_000, 20_000
FEW_SHARDS, MANY_SHARDS = 40, 400
TINY = (4, 4)
#: What a bare matrix is; else the two kinds that it can be are asked about.
KIND = {"*": "linear"}

# -- what the estimate is for ----------------------------------------------------------------------------------------
BYTES, SHARD, TENSORS = 1_400_000_000_000, 5_000_000_000, 100_000
MACHINES = (1, 8, 64)
LINKS = {"without a network": math.inf, "10 Gbit/s": 10e9 / 8, "1 Gbit/s": 1e9 / 8}


@dataclass(frozen=True)
class Costs:
    """rate: bytes a second of one machine, source and target in memory. plan: seconds a tensor. task: seconds each."""

    rate: float
    plan: float
    task: float

    def seconds(self, machines: int, link: float) -> float:
        """For `BYTES`; link: bytes a second, each machine's. As if a machine computed, read or wrote at a time."""
        tasks = math.ceil(BYTES / SHARD)
        one = SHARD / self.rate + 2 * SHARD / link + self.task
        return self.plan * TENSORS + math.ceil(tasks / machines) * one


def write(path: Path, shape: tuple[int, int], count: int, shards: int) -> int:
    """A sharded checkpoint of so many random matrices. Returns its bytes."""
    specs = tuple(TensorSpec(f"blocks.{number}.dense.weight", shape, DTYPE) for number in range(count))
    limit = math.ceil(count / shards) * specs[0].nbytes
    generator = np.random.default_rng(0)
    with open_writer(by_name("safetensors-sharded"), path, Contents(specs), limit) as writer:
        for spec in specs:
            writer.write(spec.name, generator.standard_normal(shape, np.float32).astype(DTYPE))
    return sum(spec.nbytes for spec in specs)


def fastest(rounds: int, what: Callable[[], object]) -> float:
    """Seconds; other work on the machine can only add to them."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        what()
        found.append(time.perf_counter() - start)
    return min(found)


@contextmanager
def cluster(workers: int) -> Iterator[Executor]:
    """Processes of this machine, which have done something before they are measured."""
    made = distributed.LocalCluster(workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR)
    with made, distributed.Client(made, set_as_default=False) as client:
        client.run(__import__, "converter.commands.convert")
        yield client.get_executor(pure=False)


def convert(direction: str, source: Path, folder: Path, limit: int, executor: Executor | None = None) -> Path:
    output = folder / f"o{'.bin.index.json' if direction.endswith('torch') else INDEX}"
    converter.convert(direction, source, output, max_shard_size=limit, executor=executor, force=True, kind=KIND)
    return output


def refuse_other_bytes(one: Path, many: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    same, *_ = filecmp.cmpfiles(one, many, names, shallow=False)
    if sorted(same) != names or sorted(file.name for file in many.iterdir()) != names:
        raise SystemExit(f"not the bytes of one machine: {sorted({*names} - {*same})}")


def rates(folder: Path, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Work -> by whom -> bytes a second."""
    source = folder / f"s{INDEX}"
    count = max(8, size // (math.prod(MATRIX) * DTYPE.itemsize))
    nbytes = write(source, MATRIX, count, 12)
    limit = nbytes // 12
    one, many = folder / "one", folder / "many"
    one.mkdir()
    many.mkdir()
    found: dict[str, dict[str, float]] = {}
    for title, direction in WORKS.items():
        found[title] = {}
        seconds = fastest(rounds, partial(convert, direction, source, one, limit))
        found[title]["no cluster"] = nbytes / seconds
        for workers in (1, 2):
            with cluster(workers) as executor:
                convert(direction, source, many, limit, executor)
                seconds = fastest(rounds, partial(convert, direction, source, many, limit, executor))
            found[title][f"{workers} worker{'s' * (workers > 1)}"] = nbytes / seconds
            refuse_other_bytes(one, many)
        for file in (*one.iterdir(), *many.iterdir()):
            file.unlink()
    return found


def plan_seconds(folder: Path, rounds: int) -> float:
    """A tensor."""
    seconds = []
    for count in (FEW, MANY):
        source = folder / f"p{count}{INDEX}"
        write(source, TINY, count, 40)
        plan = partial(
            converter.convert,
            "torch->flax",
            source,
            folder / "p.safetensors",
            max_shard_size="1MB",
            dry_run=True,
            kind=KIND,
        )
        seconds.append(fastest(rounds, plan))
    return (seconds[1] - seconds[0]) / (MANY - FEW)


def task_seconds(folder: Path, rounds: int) -> float:
    """A task more for the same tensors, the source being in as many files as the largest output."""
    source = folder / f"t{INDEX}"
    nbytes = write(source, TINY, MANY, MANY_SHARDS)
    output = folder / "tasks"
    output.mkdir()
    seconds = []
    with cluster(1) as executor:
        for shards in (FEW_SHARDS, MANY_SHARDS):
            limit = nbytes // shards
            seconds.append(fastest(rounds, partial(convert, "torch->flax", source, output, limit, executor)))
            for file in output.iterdir():
                file.unlink()
    return (seconds[1] - seconds[0]) / (MANY_SHARDS - FEW_SHARDS)


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return "\n".join([row(*head), row(*("---" for _ in head)), *(row(*cells) for cells in rows)]) + "\n"


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def page(measured: dict[str, dict[str, float]], plan: float, task: float, size: int, rounds: int) -> str:
    """What was measured, and the arithmetic with it."""
    by_whom = list(next(iter(measured.values())))
    figures = [(title, *(f"{rate / 1e9:.2f}" for rate in found.values())) for title, found in measured.items()]
    parts = [
        f"Measured by `make machines` on {os.cpu_count()} processors ({platform.machine()}), Python "
        f"{platform.python_version()}, distributed {distributed.__version__}, NumPy {np.__version__}; {size / 1e9:.2f} "
        f"GB of bfloat16 in matrices of {MATRIX[0]} by {MATRIX[1]}, 12 shards, source and target in memory (tmpfs); "
        f"the fastest of {rounds} rounds, load of the machine {os.getloadavg()[1]:.1f}. The workers wrote the "
        "same bytes as one process without a cluster, in every row. GB/s:\n",
        table(("work", *by_whom), figures),
        f"Planning: {plan * 1e3:.2f} ms a tensor ({FEW} and {MANY} tensors, dry runs). A task: {task * 1e3:.0f} ms "
        f"({FEW_SHARDS} and {MANY_SHARDS} shards of the same {MANY} tensors, one worker).\n",
    ]
    for title, found in measured.items():
        costs = Costs(found["1 worker"], plan, task)
        rows = [(name, *(duration(costs.seconds(count, link)) for count in MACHINES)) for name, link in LINKS.items()]
        parts += [f"Arithmetic, {title}:\n", table(("each machine's link", *map(str, MACHINES)), rows)]
    return "\n".join(parts)


@click.command()
@click.option("--size", default="1.5GB")
@click.option("--rounds", default=3)
@click.option("--folder", default="/dev/shm", type=click.Path(exists=True, path_type=Path))
def main(size: str, rounds: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        there = Path(name)
        plan, task = plan_seconds(there, rounds), task_seconds(there, rounds)
        measured = rates(there, parse_size(size), rounds)
    text = page(measured, plan, task, parse_size(size), rounds)
    print(text)
    if PAGE.exists():
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
