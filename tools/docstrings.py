"""Docstrings as the site shows them: what is said of each parameter is an item of a list (an extension of griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

#: `name: ` or `name, other: ` at the start of a sentence.
_NAMED = re.compile(r"(?:^|(?<=[.)`] ))((?:\w+)(?:, \w+)*): ")
_FRAMEWORK = re.compile(r"^(PyTorch|Keras|gluon|linen|nnx): ", re.MULTILINE)
_AFTER = re.compile(r"(?<=[.)] )(?=(?:Raises|Warns|Returns)\b)")


def listed(text: str, names: set[str]) -> str:
    """Paragraphs that tell of parameters, with an item for each."""
    return "\n\n".join(_paragraph(paragraph, names) for paragraph in text.split("\n\n"))


def _paragraph(text: str, names: set[str]) -> str:
    if _FRAMEWORK.search(text):
        return _FRAMEWORK.sub(r"\n- **\1**: ", text)
    line = " ".join(text.split())
    items = [match for match in _NAMED.finditer(line) if names.issuperset(match[1].split(", "))]
    if not items:
        return text
    for match in reversed(items):
        line = f"{line[: match.start()]}\n- **{match[1]}**: {line[match.end() :]}"
    return _AFTER.sub("\n\n", line)


class Parameters(griffe.Extension):  # type: ignore[misc]  # not in the environment of the tests
    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        options = {"first", "layers", "map", "skip_mismatch", "slice", "inflate"}
        self._list(func, {parameter.name for parameter in func.parameters} | {"keywords"} | options)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        self._list(cls, set(cls.members))

    def _list(self, thing: griffe.Object, names: set[str]) -> None:
        if thing.docstring is not None:
            thing.docstring.value = listed(thing.docstring.value, names)
