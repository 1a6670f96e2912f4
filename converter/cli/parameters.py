"""Click's options, made from the fields of the option records; and how a result is printed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

import click

from converter.option_values import COUNTS
from converter.options import Option, Options, options_of

_Command = TypeVar("_Command", bound=Callable[..., Any])


def options(*records: type[Options], without: Collection[str] = ()) -> Callable[[_Command], _Command]:
    """The flags of all fields of these records, in their order: ``--flatten-fix`` is ``--no-flatten-fix``."""

    def decorate(command: _Command) -> _Command:
        for record in reversed(records):
            for name, option in reversed(list(options_of(record).items())):
                if name not in without:
                    command = _parameter(name, option, default=getattr(record(), name))(command)
        return command

    return decorate


def _parameter(name: str, option: Option, default: Any) -> Callable[[_Command], _Command]:
    flag = name.replace("_", "-")
    if option.values.shape == "flag":
        says = f"--no-{flag}" if default else f"--{flag}"
        return click.option(says, name, is_flag=True, flag_value=not default, default=default, help=option.help)
    return click.option(
        f"--{flag}",
        name,
        metavar=option.metavar,
        multiple=option.values.shape != "one",
        callback=_callback(option),
        help=option.help,
    )


def _callback(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """What was typed as the record takes it. Raises click.BadParameter."""

    def convert(context: click.Context, parameter: click.Parameter, typed: Any) -> Any:
        if typed is None or (option.values.shape != "one" and not typed):
            return None
        try:
            return option.values.check(_collected(option, typed))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return convert


def _collected(option: Option, typed: Any) -> Any:
    if option.values.shape == "one":
        return option.values.from_text(typed)
    if option.values.shape == "many":
        return tuple(map(option.values.from_text, typed))
    for text in typed:
        if "=" not in text:
            raise ValueError(f"'{text}' is not of the form {option.metavar}")
    return {key: option.values.from_text(value) for key, _, value in (text.partition("=") for text in typed)}


def _example_inputs(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> Any:
    """The arrays of these shapes; None where there are none."""
    if not texts:
        return None
    from converter.live.user_code import example_inputs  # files need no live nets

    return example_inputs(texts)


#: ``LAYER=N`` of an option that is of no record.
sized = _callback(Option("", COUNTS, "LAYER=N"))
#: What several commands have beside the records.
from_option = click.option("--from", "source_framework", metavar="NAME", help="Whose names SOURCE has.")
to_option = click.option("--to", "target_framework", metavar="NAME", help="Whose names TARGET has.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print it as JSON, errors too.")
net_option = click.option(
    "--net",
    metavar="NET",
    help="The source's own net, package.module:Net. With --example-input, and the other net by its name, too, both "
    "are run, and what their layers take and give tells which is which.",
)
example_option = click.option(
    "--example-input",
    metavar="SHAPE",
    multiple=True,
    callback=_example_inputs,
    help="What the net package.module:Net takes (that of --net, if both are): 2,20 or 2,7:int64, or a .npy or .npz "
    "file. Repeatable, for several inputs.",
)


class Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


def as_text(result: Result, as_json: bool) -> str:
    """For people, or as JSON for programs."""
    return json_text(result.to_dict()) if as_json else on_terminal(str(result))


def on_terminal(text: str) -> str:
    """The lines without anything that a terminal would obey, whatever the names in a file hold."""
    from converter.errors import text_of

    return text_of(text.split("\n"))


def json_text(document: Any) -> str:
    import json  # `--help` does without both

    import msgspec

    from converter.errors import UNPRINTABLE

    try:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
        return "\n".join(UNPRINTABLE.sub(lambda met: f"\\u{ord(met[0]):04x}", line) for line in text.split("\n"))
    except (UnicodeEncodeError, TypeError):  # half a character in what the file holds beside its tensors
        return json.dumps(document, indent=2, default=str)
