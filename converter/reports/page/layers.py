"""The layers as the tree that they form: a module is opened and closed, and a table of the layers in it.

A page may have ten thousand rows, so each table is inside a ``noscript``: a text for a browser that runs the page's
script, which makes rows of it when its module is opened, and a table for any other. Closing tags and quotes that HTML
does without are left out of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from converter.reports.page.lines import ASKED, LIKELY, STATUSES, Line, Module, Moved, Tensor, tree
from converter.reports.page.markup import code, count, css_class, option, shape, status, text

#: So many layers are shown at once; of more, the outermost modules and what is asked.
_ALL_OPEN = 120
#: Deeper modules are not indented further.
_DEEPEST = 8
_HEAD = "<thead><tr><th>layer<th>source<th>target<th>done<th>paired by</thead>"


def layers(lines: Sequence[Line]) -> str:
    """All of them; the page's script searches in what has the class ``line``."""
    return _inside(tree(lines), "outermost", 0, len(lines) <= _ALL_OPEN)


def counts(lines: Iterable[Line]) -> Counter[str]:
    """How many have each status."""
    return Counter(line.status for line in lines)


def _inside(module: Module, called: str, depth: int, small: bool) -> str:
    parts = []
    for is_module, items in groupby(module.inside, key=lambda item: isinstance(item[1], Module)):
        if is_module:
            parts += [_module(name, item, depth, small) for name, item in items if isinstance(item, Module)]
        else:
            parts.append(_in_a_row([(name, item) for name, item in items if isinstance(item, Line)], called, depth))
    return "".join(parts)


def _in_a_row(lines: Sequence[tuple[str, Line]], called: str, depth: int) -> str:
    """Layers that follow each other: a table, or very many of them in parts to be opened."""
    if len(lines) <= _ALL_OPEN:
        return _table(lines, called, depth)
    parts = []
    for start in range(0, len(lines), _ALL_OPEN):
        part = lines[start : start + _ALL_OPEN]
        name = f"{part[0][0]} … {part[-1][0]}"
        parts.append(_folded(name, [line for _, line in part], _table(part, name, depth + 1), depth))
    return "".join(parts)


def _table(lines: Sequence[tuple[str, Line]], called: str, depth: int) -> str:
    rows = "".join(_layer(name, line) for name, line in lines)
    table = f'<table class="layers {_indent(depth)}" aria-label="{text(called)}">{_HEAD}{rows}</table>'
    return f"<noscript class=rows>{table}</noscript>"


def _folded(name: str, lines: Sequence[Line], body: str, depth: int, is_open: bool = False) -> str:
    """What is opened and closed, with what is in it in short."""
    number, tensors = counts(lines), sum(len(moved.targets) for line in lines for moved in line.moved)
    marks = "".join(status(each, number[each]) for each in STATUSES if number[each])
    size = f"{count(len(lines), 'layer')}, {count(tensors, 'tensor')}"
    head = f"<summary>{code(name)} <span class=size>{size}</span> <span class=marks>{marks}</span></summary>"
    return f'<details class="module {_indent(depth)}"{" open" if is_open else ""}>{head}{body}</details>'


def _module(name: str, module: Module, depth: int, small: bool) -> str:
    while len(module.inside) == 1 and isinstance(module.inside[0][1], Module):  # a chain of modules is one
        ((inner, module),) = module.inside  # type: ignore[assignment]
        name = f"{name}.{inner}"
    lines = list(module.lines)
    is_open = small or depth == 0 or (counts(lines)[ASKED] > 0 and len(lines) <= _ALL_OPEN)
    return _folded(name, lines, _inside(module, name, depth + 1, small), depth, is_open)


def _indent(depth: int) -> str:
    return f"d{min(depth, _DEEPEST)}"


def _layer(name: str, line: Line) -> str:
    first, *others = map(_cells, line.moved or (Moved((), ()),))
    span = f" rowspan={len(others) + 1}" if others else ""
    kind = f"<small class=kind>{text(line.kind)}</small>" if line.kind else ""
    head = f"<th scope=rowgroup{span}>{code(name)} {kind}"
    why = f"<td class=why{span}>{status(line.status)} {text(line.reason)} {_ways(line)}"
    more = "".join(f"<tr>{cells}" for cells in others)
    return f"<tbody class=line data-status={css_class(line.status)}><tr>{head}{first}{why}{more}"


def _cells(moved: Moved) -> str:
    sources, targets = ("<br>".join(map(_tensor, end)) for end in (moved.sources, moved.targets))
    return f"<td class=from>{sources}<td class=to>{targets}<td class=done>{text(moved.done)}"


def _tensor(tensor: Tensor) -> str:
    dtype = f" {tensor['dtype']}" if "dtype" in tensor else ""
    return f"{code(tensor['name'])} <small>{shape(tensor['shape'])}{dtype}</small>"


def _ways(line: Line) -> str:
    """Where it is asked, or what overrules it."""
    if line.question:
        return f"<a href=#q{line.question}>question {line.question}</a>"
    ways = " ".join(map(option if line.status == LIKELY else code, line.options))
    return f"<details class=ways><summary>overrule</summary>{ways}</details>"
