"""What stands around the layers on a page: questions before them; after them what was left out, to check, proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from converter.errors import FLAGS, Placeholder, Remedy
from converter.flattening.walk import OUTPUTS, Flattened
from converter.reports.page.lines import ASKED, CERTAIN, LEFT_OUT
from converter.reports.page.markup import code, count, option, section, shape, status, table, text

Document = Mapping[str, Any]

# -- what is asked ----------------------------------------------------------------------------------------------------


def questions(problems: Sequence[Document]) -> str:
    """The problems of a refusal, those of one kind together, each with the options that settle it."""
    kinds: dict[str, list[tuple[int, Document]]] = {}
    for number, problem in enumerate(problems, 1):
        kinds.setdefault(problem["kind"], []).append((number, problem))
    body = "".join(_alike(alike) for alike in kinds.values())
    note = "Each is settled by one of its options: add it to the command, and convert again."
    return section(f"Asked: {count(len(problems), 'question')}", body, note)


def _alike(alike: Sequence[tuple[int, Document]]) -> str:
    summary = alike[0][1]["summary"]
    title = (
        text(summary.format(count=sum(1 + len(problem["alike"]) for _, problem in alike)))
        if summary and len(alike) > 1
        else ""
    )
    head = f"<h3>{title}</h3>{_wide(problem for _, problem in alike)}" if title else ""
    items = "".join(_question(number, problem) for number, problem in alike)
    return f'<div class="asking">{head}<ol class="questions">{items}</ol></div>'


def _wide(problems: Iterable[Document]) -> str:
    """What settles many at once, the most first."""
    settles = Counter(remedy["said"] for problem in problems for remedy in problem["wide"])
    ways = "".join(f"<li>{option(said)} settles {number:,}</li>" for said, number in settles.most_common(6))
    return f'<p>Many at once:</p><ul class="ways">{ways}</ul>' if ways else ""


def _question(number: int, problem: Document) -> str:
    about = f"{code(problem['about']['said'])}: " if problem["about"] else ""
    ways = "".join(f"<li>{option(remedy['said'])} {text(remedy['effect'])}</li>" for remedy in problem["remedies"])
    said = f'{about}{text(problem["text"])}<ul class="ways">{ways}</ul>'
    return f'<li id="q{number}" value="{number}" tabindex="-1">{said}</li>'


# -- what else there is to say ----------------------------------------------------------------------------------------


def left_out(items: Sequence[Document]) -> str:
    rows = ([status(LEFT_OUT), code(item["name"]), text(item["reason"])] for item in items)
    return section(f"Left out: {count(len(items), 'name')}", table(("", "name", "why"), rows, LEFT_OUT))


def flattened(items: Iterable[Document]) -> str:
    rows = ([text(_decision(item)), option(_otherwise(item))] for item in items)
    return section("Flattened features", table(("decision", "overruled by"), rows))


def _decision(item: Document) -> str:
    return str(msgspec.convert(item, Flattened))


def _otherwise(item: Document) -> str:
    name = "unflatten" if item["side"] == OUTPUTS else "flatten"
    return FLAGS(Remedy(name, (item["path"], Placeholder("CHANNELS"))))


def lost(infinite: Mapping[str, int], zero: Mapping[str, int]) -> str:
    """What casts made infinite or zero."""
    counts = (("inf", infinite), ("zero", zero))
    rows = ([code(name), f"{number:,} became {what}"] for what, of in counts for name, number in of.items())
    return section("Too large or too small for the dtype", table(("tensor", "values"), rows))


def checklist(checks: Iterable[Document]) -> str:
    """What weights do not carry."""
    rows = ([*map(text, _said(check)), code(check["remedy"]), _named(check["layers"])] for check in checks)
    note = "Equal weights are an equal function only where these are set equally, which weights do not carry."
    return section("To check", table(("property", "source", "target", "in the clone", "layers"), rows), note)


def _said(check: Document) -> tuple[str, str, str]:
    return check["property"], check["source"], check["target"]


def _named(paths: Sequence[str]) -> str:
    names = " ".join(map(code, paths))
    return names if len(paths) < 4 else f"<details><summary>{count(len(paths), 'layer')}</summary>{names}</details>"


def proof(found: Document) -> str:
    """What `converter.verify` compared, layer by layer (of nets) or tensor by tensor (of weights)."""
    rows = _of_nets(found["layers"] + found["outputs"]) if "layers" in found else _of_weights(found["tensors"])
    title = f"Proof: the two {'agree' if found['ok'] else 'differ'}"
    return section(title, table(("", "source", "target", "shape", "largest difference"), rows))


def _of_nets(layers: Iterable[Document]) -> Iterator[list[str]]:
    for layer in layers:
        yield [_agrees(layer["ok"]), code(layer["a"]), code(layer["b"]), shape(layer["shapes"][0]), _relative(layer)]


def _of_weights(tensors: Iterable[Document]) -> Iterator[list[str]]:
    for tensor in tensors:
        ends = (" + ".join(map(code, tensor[end])) for end in ("source", "target"))
        yield [_agrees(tensor["same"]), *ends, shape(tensor["shape"]), _relative(tensor)]


def _relative(compared: Document) -> str:
    return f"{compared['relative']:.2g} of the largest value" if compared["relative"] else "none"


def _agrees(ok: bool) -> str:
    mark, word, like = ("✓", "equal", CERTAIN) if ok else ("✗", "differs", ASKED)
    return f'<span class="s {like}"><b aria-hidden=true>{mark}</b> {word}</span>'
