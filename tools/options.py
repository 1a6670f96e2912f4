"""Write docs/options.md: every option, from the records and the commands (`python tools/options.py`)."""

from __future__ import annotations

import re
from pathlib import Path

import click
from msgspec.structs import fields

from converter.cli import program
from converter.options import (
    MatchOptions,
    Option,
    Options,
    ReadOptions,
    ReuseOptions,
    TrainingOptions,
    WriteOptions,
    options_of,
)

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
#: Record -> the title of its section.
RECORDS: dict[type[Options], str] = {
    MatchOptions: "Which layer is which, and what it is",
    ReadOptions: "What is read",
    WriteOptions: "How it is written",
    TrainingOptions: "Whether the training goes on",
    ReuseOptions: "Which layers are reused",
}
HEAD = """# Options

Written by `python tools/options.py` from `converter/options.py` and the commands.

Every option is declared once. The command line has it as a flag; Python as a keyword, or as a field of a record:
`converter.convert("torch->flax", "mlp.params", map={"output": "out"})` and
`converter.convert("torch->flax", "mlp.params", options=converter.MatchOptions(map={"output": "out"}))` do the same.

A pattern has `*` for any text, and stands for all below a module that it names. A pattern that meets no layer is an
error, and so is an option that cannot apply to the layers that it meets. Sizes are like `5GB`, `500MB` or `2GiB`.
"""


def page() -> str:
    parts = [HEAD]
    for record, title in RECORDS.items():
        parts.append(f"## {title}\n\nRecord `converter.{record.__name__}`; {_used_by(record)}.\n")
        parts.append(_records(record))
    parts.append("## Of the commands\n\nWhat a command has beside the records.\n")
    for name, command in _commands():
        rows = _own(command)
        if rows:
            parts.append(f"### `converter {name}`\n\n{_sentence(command.help or '')}\n")
            parts.append("\n".join(["| option | what it does |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _commands() -> list[tuple[str, click.Command]]:
    """With the commands of groups: `schema show`."""
    row = []
    for name, command in program.commands.items():
        inner = command.commands.items() if isinstance(command, click.Group) else ()
        row += [(f"{name} {sub}", one) for sub, one in inner] or [(name, command)]
    return row


def _used_by(record: type[Options]) -> str:
    names = set(options_of(record))
    users = [f"`{name}`" for name, command in _commands() if len(names & {str(one.name) for one in command.params}) > 1]
    return f"commands {', '.join(users)}" if len(users) > 1 else f"command {users[0]}"


def _records(record: type[Options]) -> str:
    rows = ["| flag | keyword | what it does |", "|---|---|---|"]
    defaults = {field.name: field.default for field in fields(record)}
    for name, option in options_of(record).items():
        flag, keyword = _flag(name, option, defaults[name])
        rows.append(f"| {flag} | {keyword} | {_cell(option.help)} |")
    return "\n".join(rows) + "\n"


def _flag(name: str, option: Option, default: object) -> tuple[str, str]:
    dashed = name.replace("_", "-")
    if option.values.shape == "flag":
        return f"`--no-{dashed}`" if default is True else f"`--{dashed}`", f"`{name}={default is not True}`"
    example = {"pairs": "{…: …}", "many": "[…]"}.get(option.values.shape, "…")
    return f"`--{dashed} {option.metavar}`", f"`{name}={example}`"


def _own(command: click.Command) -> list[str]:
    declared = {name for record in RECORDS for name in options_of(record)}
    rows = []
    for one in command.params:
        record_too = one.name in declared and "--schema" not in one.opts
        if isinstance(one, click.Option) and not record_too and not _is_of_match(command, one):
            flags = ", ".join(sorted(one.opts, key=len))
            rows.append(f"| `{flags}{f' {one.metavar}' if one.metavar else ''}` | {_cell(one.help or '')} |")
    return rows


def _is_of_match(command: click.Command, option: click.Option) -> bool:
    """`--schema` of scaffold is another one than that of the records."""
    return option.name == "schema" and any(one.name == "map" for one in command.params)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split()).replace(" Repeatable.", " *Repeatable.*")


def _sentence(text: str) -> str:
    return " ".join(re.split(r"\n\s*\n", text.strip())[0].split())


if __name__ == "__main__":
    PAGE.write_text(page())
