"""Large files: this program beside ``cp`` and beside scripts by hand; writes docs/benchmarks.md and its plot.

    python -m benchmarks.large [--size 2GB] [--rounds 5] [--growth 10MB,100MB,1GB,4GB] [--folder /dev/shm]

Everything is done in a temporary folder there, which should be in memory (tmpfs) so that no disk is measured.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import page, small, transposing
from benchmarks.measure import Runs, in_turn, inspect, ours, remove, run, script, size_of
from converter.formats import detect
from converter.option_values import parse_size


@dataclass(frozen=True)
class Work:
    """A row: what is converted, how the script by hand is called, and the targets of time.

    once: it takes minutes, so one round must do.
    """

    title: str
    direction: str
    source: str
    output: str
    by_hand: str
    most_times_cp: float | None = None
    least_times_faster: float | None = None
    once: bool = False


WORKS = (
    Work("torch → MXNet", "torch->mxnet", "m.pt", "o.params", "torch_to_mxnet", 1.3),
    Work("torch → neutral", "torch->neutral", "m.pt", "o.safetensors", "torch_to_neutral", 1.3),
    Work("torch → Flax msgpack", "torch->flax", "m.pt", "o.msgpack", "torch_to_flax", 2.0, 8),
    Work(
        "torch → Flax msgpack, beside weightbridge",
        "torch->flax",
        "m.pt",
        "o.msgpack",
        "weightbridge_to_flax",
        once=True,
    ),
    Work("torch → Keras .weights.h5", "torch->keras", "m.pt", "o.weights.h5", "torch_to_keras", 2.0, 8),
    Work("Flax msgpack → torch", "flax->torch", "m.msgpack", "o.pt", "flax_to_torch", 2.0, 8),
    Work("torch → TensorFlow checkpoint", "torch->tf", "m.pt", "o.ckpt", "torch_to_tf", None, 4),
    Work("torch → Orbax", "torch->flax", "m.pt", "o.orbax", "torch_to_orbax", None, 4),
    Work("Orbax → torch", "flax->torch", "m.orbax", "o.pt", "orbax_to_torch", None, 4),
)
#: What is listed by its headers: the output of each of these directions.
LISTED = {
    "o.pt": "torch->torch",
    "o.legacy.pt": "torch->torch",
    "o.params": "torch->mxnet",
    "o.safetensors": "torch->neutral",
    "o.npz": "torch->flax",
    "o.msgpack": "torch->flax",
    "o.orbax": "torch->flax",
    "o.weights.h5": "torch->keras",
    "o.h5": "torch->keras",
    "o.ckpt": "torch->tf",
}
#: Sources that are not PyTorch's are made by the real framework, from the one that is.
MADE = {"m.msgpack": "torch_to_flax", "m.orbax": "torch_to_orbax"}
MANY = (1_000, 10_000, 100_000)


def compare(work: Work, folder: Path, rounds: int) -> dict[str, Runs]:
    """``cp`` of the source file, this program and the script by hand, in turn."""
    source, output, copy = folder / work.source, folder / work.output, folder / "copy"
    if not source.exists():
        run(script(MADE[work.source], folder / "m.pt", source))
    commands = {
        "cp": (["cp", "-r", str(source), str(copy)], copy),
        "ours": (ours(work.direction, source, output), output),
        "by hand": (script(work.by_hand, source, output), output),
    }
    if work.once:
        return in_turn(commands, 1)
    for name in ("ours", "by hand"):  # Orbax compresses what it writes, a little where the numbers are random
        run(commands[name][0])
        assert 0.85 < size_of(output) / size_of(source) < 1.18, f"{work.title}: {name} wrote another amount of data"
        remove(output)
    return in_turn(commands, rounds)


def listing(folder: Path, rounds: int) -> dict[str, Runs]:
    """Title of the format -> ``converter inspect`` of the whole file."""
    found = {}
    for name, direction in LISTED.items():
        output = folder / name
        run(ours(direction, folder / "m.pt", output))
        title = detect(output).title
        found[title] = in_turn({"ours": (inspect(output), None)}, rounds)["ours"]
        remove(output)
    return found


def growth(sizes: list[int], folder: Path, rounds: int) -> dict[int, dict[str, Runs]]:
    """File size -> ``cp`` and this program, transposing every matrix."""
    found = {}
    for size in sizes:
        source, output, copy = folder / "g.pt", folder / "g.msgpack", folder / "copy"
        run(script("make_torch", source, size))
        commands = {
            "cp": (["cp", str(source), str(copy)], copy),
            "ours": (ours("torch->flax", source, output), output),
        }
        found[source.stat().st_size] = in_turn(commands, rounds)
        remove(source)
    return found


def many(folder: Path, rounds: int) -> dict[int, Runs]:
    """Number of small tensors -> this program."""
    found = {}
    for count in MANY:
        source, output = folder / "many.pt", folder / "many.safetensors"
        run(script("make_many", source, count))
        found[count] = in_turn({"ours": (ours("torch->neutral", source, output), output)}, rounds)["ours"]
        remove(source)
    return found


@click.command()
@click.option("--size", default="2GB", show_default=True, help="Of the file of the table.")
@click.option("--rounds", default=5, show_default=True, help="Runs of each command.")
@click.option("--growth", "sizes", default="10MB,100MB,1GB,4GB", show_default=True, help="File sizes of the curve.")
@click.option("--folder", default="/dev/shm", show_default=True, help="Where the files are, best in memory.")
@click.option("--works", default="", help="Only rows whose title contains this.")
def main(size: str, rounds: int, sizes: str, folder: str, works: str) -> None:
    """Measure, and write the page."""
    place = Path(tempfile.mkdtemp(dir=folder, prefix="benchmark-"))
    try:
        run(script("make_torch", place / "m.pt", parse_size(size)))
        table = []
        for work in WORKS:
            if works in work.title:
                table.append((work, compare(work, place, rounds)))
                click.echo(page.row(*table[-1]))
        source_size = size_of(place / "m.pt")
        listed = listing(place, rounds)
        remove(place / "m.pt")
        for name in MADE:
            remove(place / name)
        curve = growth([parse_size(text) for text in sizes.split(",")], place, rounds)
        counts = many(place, rounds)
    finally:
        shutil.rmtree(place)
    least, transposed = small.measure(max(rounds, 3)), transposing.table()
    page.write(table, listed, curve, counts, least, transposed, source_size, rounds, " ".join(sys.argv[1:]))


if __name__ == "__main__":
    main()
