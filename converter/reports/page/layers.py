"""The layers as the tree that they form: a module is opened and closed, and a table of the layers in it.

Closing tags and quotes that HTML does without are left out of the rows: there are ten thousands of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from converter.reports.page.lines import ASKED, LIKELY, STATUSES, Line, Module, Moved, Tensor, tree
from converter.reports.page.markup import code, count, css_class, option, shape, status, text

#: So many layers are all shown at first; of more, the outermost modules and what is asked.
_ALL_OPEN = 120
#: Deeper modules are not indented further.
_DEEPEST = 8
_HEAD = "<thead><tr><th>layer<th>source<th>target<th>done<th>paired by</thead>"


def layers(lines: Sequence[Line]) -> str:
    """All of them; the page's script searches in what has the class ``line``."""
    root, small = tree(lines), len(lines) <= _ALL_OPEN
    return _table(root.lines, "outermost", 0) + _modules(root, 0, small)


def counts(lines: Iterable[Line]) -> Counter[str]:
    """How many have each status."""
    return Counter(line.status for line in lines)


def _modules(module: Module, depth: int, small: bool) -> str:
    return "".join(_module(name, inner, depth, small) for name, inner in module.modules.items())


def _module(name: str, module: Module, depth: int, small: bool) -> str:
    while not module.lines and len(module.modules) == 1:  # a chain of modules is one line
        ((inner, module),) = module.modules.items()
        name = f"{name}.{inner}"
    lines = list(module.all_lines())
    number = counts(lines)
    is_open = " open" if small or depth == 0 or (number[ASKED] and len(lines) <= _ALL_OPEN) else ""
    marks = "".join(status(each, number[each]) for each in STATUSES if number[each])
    size = f"{count(len(lines), 'layer')}, {count(sum(len(line.moved) for line in lines), 'tensor')}"
    head = f"<summary>{code(name)} <span class=size>{size}</span> <span class=marks>{marks}</span></summary>"
    body = _table(module.lines, name, depth + 1) + _modules(module, depth + 1, small)
    return f'<details class="module d{min(depth, _DEEPEST)}"{is_open}>{head}{body}</details>'


def _table(lines: Sequence[tuple[str, Line]], module: str, depth: int) -> str:
    if not lines:
        return ""
    body = "".join(_layer(name, line) for name, line in lines)
    return f'<table class="layers d{min(depth, _DEEPEST)}" aria-label="{text(module)}">{_HEAD}{body}</table>'


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
    """What settles or overrules it: at hand where that is likely to be wanted."""
    if line.question:
        return f"<a href=#q{line.question}>question {line.question}</a>"
    if line.status == LIKELY:
        return f"<div class=ways>overruled by {' '.join(map(option, line.options))}</div>"
    return f"<details class=ways><summary>overrule</summary>{' '.join(map(code, line.options))}</details>"
