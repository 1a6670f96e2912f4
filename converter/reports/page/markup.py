"""HTML of texts that strangers wrote: names come from files, so each of them goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from converter.errors import printable
from converter.reports.page.lines import STATUSES


def text(said: str) -> str:
    """A text as one that is shown, whatever it holds."""
    return escape(printable(said))


def code(said: str) -> str:
    return f"<code>{text(said)}</code>"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shape(sizes: Sequence[int]) -> str:
    return str(tuple(sizes))


def css_class(status: str) -> str:
    return status.replace(" ", "-")


def status(name: str, number: int | None = None) -> str:
    """A status as its mark and its word; with how many there are."""
    said = name if number is None else f"{number:,} {name}"
    return f'<span class="s {css_class(name)}"><b aria-hidden=true>{STATUSES[name][0]}</b> {said}</span>'


def option(line: str) -> str:
    """An option as the command line takes it, to be copied."""
    return f'<span class="option">{code(line)}<button type="button" class="copy">Copy</button></span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], searched: str = "") -> str:
    """A plain table of cells that are HTML already; "" where it would be empty.

    searched: the status of the rows, where the search of the page is to find them.
    """
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    row = f'<tr class="line" data-status="{css_class(searched)}">' if searched else "<tr>"
    body = "".join(row + "".join(map(_cell, head, cells)) + "</tr>" for cells in rows)
    return f'<table class="plain"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>' if body else ""


def _cell(of: str, cell: str) -> str:
    """of: what it is, which a phone shows beside it."""
    return f'<td data-of="{of}">{cell}</td>'


def section(title: str, body: str, note: str = "") -> str:
    """A part of the page; "" where it would be empty."""
    said = f"<p>{note}</p>" if note else ""
    return f'<section class="part"><h2>{title}</h2>{said}{body}</section>' if body else ""
