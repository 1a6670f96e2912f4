"""The command line: a file a command; errors and exit codes (0 done, 1 a conversion error, 2 wrong usage)."""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path
from typing import Any

import click

from converter._version import __version__
from converter.cli.convert import convert
from converter.cli.inspect import inspect
from converter.cli.parameters import json_text, on_terminal
from converter.cli.reuse import reuse
from converter.cli.scaffold import scaffold
from converter.cli.schema import schema
from converter.cli.signals import Stopped, discard_unfinished, drop_stream, open_standard_streams, stoppable
from converter.cli.verify import verify

EXAMPLES = """\b
convert 'torch->flax' mlp.params             writes mlp.msgpack beside it
convert torch-to-tensorflow mlp.pt --schema mlp -o mlp.weights.h5
convert mxnet:torch old.params --like clone.pt
convert --from jax --to neutral ckpt_dir --step 3"""


class _Program(click.Group):
    """A group whose first word may be a direction instead of a command: then it is `convert`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "--version"):
            args = ["convert", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT) from None


@click.group(cls=_Program, no_args_is_help=True, epilog=EXAMPLES, context_settings={"max_content_width": 100})
@click.version_option(package_name="weights-converter", prog_name="converter")
def program() -> None:
    """Move trained weights between PyTorch, TensorFlow/Keras, JAX/Flax and MXNet, with none of them installed.

    \b
    convert 'FROM->TO' FILE [OPTIONS]
    converter inspect FILE
    converter verify SOURCE TARGET
    converter reuse OLD --into NEW --first N
    converter scaffold FILE_OR_SCHEMA --to NAME

    FROM and TO are torch, tensorflow (tf, keras), flax (jax), mxnet (gluon) or neutral, and FROM may be mlx.
    `convert` and `converter` are the same program; see `convert convert --help` for its options.
    """


for command in (convert, inspect, verify, reuse, scaffold, schema):
    program.add_command(command)


def main(args: list[str] | None = None) -> Any:
    """Run the program; errors are printed as sentences, never as tracebacks."""
    gc.disable()  # the process ends soon, and the collector would walk 100,000 tensors again and again
    from converter.errors import FLAGS, ConversionError

    as_json = "--json" in (sys.argv[1:] if args is None else args)
    open_standard_streams()
    try:
        with stoppable():
            return program.main(args, prog_name=Path(sys.argv[0]).stem.replace("__main__", "converter"))
    except Stopped as stop:
        discard_unfinished()
        how = "interrupted" if stop.number == signal.SIGINT else f"ended by {stop}"
        _say(f"{how}; there is no output", err=True)
        sys.exit(128 + stop.number)
    except ConversionError as error:
        text, failure = error.said(FLAGS), error.to_dict(FLAGS) if as_json else {}
    except Exception as error:
        text = _sentence(error)
        failure = {"error": type(error).__name__, "message": text, "problems": []}
    if as_json:  # on stdout, for programs
        _say(json_text(failure))
    else:
        _say(f"error: {on_terminal(text)}", err=True)
    sys.exit(1)


def _say(text: str, err: bool = False) -> None:
    """Also where nobody listens any more: the exit code tells."""
    try:
        click.echo(text, err=err)
    except OSError:
        drop_stream(sys.stderr if err else sys.stdout)


def _sentence(error: Exception) -> str:
    """What to say of an error that is none of a conversion: one sentence, and the next step."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return "not enough memory. Conversions need least with --workers 1."
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = next(iter(str(error).splitlines()), "no reason")
    return (
        f"this is a bug of the converter: {type(error).__name__}: {reason} ({Path(last.filename).name}, line "
        f"{last.lineno}, version {__version__}). Please report this line, the command and, if you can, the file."
    )
