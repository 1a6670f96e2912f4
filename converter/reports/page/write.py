"""A page to look at: one HTML file of what was done, would be done, or is asked. It loads nothing and sends nothing.

It is made of the documents that ``--json`` prints. The page allows no script and no style but its own, by their
hashes, should a name from a file ever be more than text. Without scripts it is the same page, but for the search.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from string import Template
from typing import Any

from converter._version import __version__
from converter.errors import FLAGS, MatchError
from converter.reports.page import parts
from converter.reports.page.layers import counts, layers
from converter.reports.page.lines import LEFT_OUT, STATUSES, Line, converted, refused
from converter.reports.page.markup import code, count, css_class, status, text

#: What every page begins with.
_MARK = b"<!doctype html>\n<!-- page of converter -->\n"


def page_of_report(document: Mapping[str, Any], proof: Mapping[str, Any] | None = None) -> str:
    """The page of `Report.to_dict`. proof: the ``to_dict`` of what `converter.verify` found."""
    source, output, left_out = document["source"], document["output"], document["left_out"]
    said = ("done", "Converted") if output["written"] else ("planned", "A plan: nothing was written")
    sections = (
        parts.proof(proof) if proof else "",
        parts.left_out(left_out),
        parts.flattened(document["flatten"]),
        parts.lost(document["overflow"], document["underflow"]),
        parts.checklist(document["checklist"]),
    )
    lines = converted(document)
    number = counts(lines) + Counter({LEFT_OUT: len(left_out)})
    return _page(said, (source, output), lines, number, rest="".join(sections))


def page_of_refusal(error: MatchError) -> str:
    """The page of a conversion that was refused: what is asked, with what settles it, and what was paired."""
    document = error.to_dict(FLAGS)
    lines, problems = refused(document), document["problems"]
    said = ("refused", f"Refused, with {count(len(problems), 'question')}: nothing was written")
    ends = ({"path": document["source"], "format": ""},)
    return _page(said, ends, lines, counts(lines), questions=parts.questions(problems))


def is_page(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK


def _page(
    said: tuple[str, str],
    ends: Sequence[Mapping[str, Any]],
    lines: Sequence[Line],
    number: Counter[str],
    questions: str = "",
    rest: str = "",
) -> str:
    names = [PurePath(end["path"]).name or end["path"] for end in ends]
    style, script = _own("page.css"), _own("page.js")
    return Template(_own("page.html")).substitute(
        title=text(" → ".join(names)),
        heading=' <span class="arrow">→</span> '.join(map(code, names)),
        state_class=said[0],
        state=text(said[1]),
        ends="".join(map(_end, ("from", "to"), ends)),
        questions=questions,
        filters="".join(_filter(name, number[name]) for name in STATUSES if number[name]),
        meanings="".join(f"<dt>{status(name)}</dt><dd>{text(means)}</dd>" for name, (_, means) in STATUSES.items()),
        tree=layers(lines),
        rest=rest,
        version=text(__version__),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _end(title: str, end: Mapping[str, Any]) -> str:
    return f"<div><dt>{title}</dt><dd>{code(end['path'])} {text(end['format'])}</dd></div>"


def _filter(name: str, number: int) -> str:
    own, said = css_class(name), f'<b aria-hidden="true">{STATUSES[name][0]}</b> {number:,} {name}'
    return f'<button type="button" class="s {own}" data-show="{own}" aria-pressed="false">{said}</button>'


@cache
def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(own: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
