"""``convert 'FROM->TO' FILE``, with a progress bar for people who look at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from converter.cli.parameters import as_text, example_option, json_option, net_option, options
from converter.options import MatchOptions, ReadOptions, TrainingOptions, WriteOptions

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.progress import Progress


@click.command()
@click.argument("words", nargs=-1, metavar="'FROM->TO' FILE")
@click.option("--from", "source_framework", metavar="NAME", help="FROM, instead of the direction.")
@click.option("--to", "target_framework", metavar="NAME", help="TO, instead of the direction.")
@click.option(
    "-o", "--output", metavar="PATH", help="Where to; the extension chooses the format.  [default: beside FILE]"
)
@net_option
@click.option(
    "--like",
    metavar="CLONE",
    help="A file saved from a fresh clone, or package.module:Net of your own code: take its names, shapes, dtypes and "
    "order.",
)
@example_option
@options(MatchOptions, ReadOptions, WriteOptions, TrainingOptions)
@click.option("--dask", metavar="HOST:PORT", help="Have the shards written by the Dask cluster of this scheduler.")
@click.option("--dry-run", is_flag=True, help="Show what would be done and why, and write nothing.")
@click.option("--certificate", metavar="PATH", help="Write down what was read, done and written; `verify` checks it.")
@json_option
def convert(
    words: tuple[str, ...],
    source_framework: str | None,
    target_framework: str | None,
    dask: str | None,
    as_json: bool,
    **others: Any,
) -> None:
    """Convert a weight file from one framework to another."""
    direction, source = _what(words, source_framework, target_framework)
    from converter.commands import convert as command  # NumPy and the formats are not needed for --help

    with _workers(dask) as executor, shown(not as_json) as progress:
        report = command.convert(direction, source, executor=executor, progress=progress, **others)
    click.echo(as_text(report, as_json))


def _workers(dask: str | None) -> AbstractContextManager[Executor | None]:
    """Those of the cluster whose scheduler has this address."""
    if dask is None:
        return nullcontext()
    from converter.execution.dask import dask_executor

    return dask_executor(dask)


def _what(words: tuple[str, ...], source: str | None, target: str | None) -> tuple[str, str]:
    """The direction and the file, from either way of saying them. Raises click.UsageError."""
    if words and words[0].endswith("-") and not source:
        raise click.UsageError(_UNQUOTED.format(first=words[0].rstrip("-"), rest=" ".join(words[1:])))
    if source and target:
        if len(words) != 1:
            raise click.UsageError("with --from and --to, name just one FILE")
        return _checked(f"{source}->{target}"), words[0]
    if source or target:
        raise click.UsageError("--from and --to go together")
    if len(words) != 2:
        raise click.UsageError(f"expected 'FROM->TO' and one FILE, got {len(words)} words: {' '.join(words)}")
    return _checked(words[0]), words[1]


def _checked(direction: str) -> str:
    from converter.endpoints.destination import parse_direction
    from converter.errors import ConversionError

    try:
        parse_direction(direction)
    except ConversionError as error:
        raise click.UsageError(str(error)) from None
    return direction


_UNQUOTED = (
    "'>' is special to the shell: it took the name after it for a file, and this message's command for '{first}-'. "
    "Quote the direction: convert '{first}->TO' {rest}, or write {first}-to-TO. "
    "(Remove the empty file that the shell made.)"
)


# -- the bar -----------------------------------------------------------------------------------------------------------

#: Less is done before a bar could be read.
WORTH_BYTES = 256 << 20


@contextmanager
def shown(wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """What takes (bytes done, all bytes) and shows them on stderr, while the block lasts.

    None where nobody would see it: when stderr is no terminal, or the output is for a program.
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar()
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """Appears with the first call, and only when there is much to do: rich takes a tenth of a second to import."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if total < WORTH_BYTES:
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
