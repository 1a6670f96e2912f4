"""The graph that MXNet exports beside the parameters, ``net-symbol.json`` with ``net-0000.params``.

It tells what the names of the tensors leave open: the operator that each is a weight of, and the order in which
they are used. Format: ``Symbol.save`` of MXNet (nnvm/src/pass/saveload_json.cc): ``nodes``, each with ``op`` (``null``
for a variable), ``name``, ``attrs`` (older: ``attr``, ``param``; all values are text) and ``inputs`` (node, output, …).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.errors import FormatError
from converter.formats.io.json import read_json


def symbol_beside(path: Path) -> Path | None:
    """The graph that belongs to ``net-0000.params``, if it lies there."""
    found = re.fullmatch(r"(.+)-\d{4}\.params", path.name)
    graph = path.with_name(f"{found[1]}-symbol.json") if found else None
    return graph if graph is not None and graph.is_file() else None


def operators(path: Path) -> Mapping[str, str]:
    """Name of each variable -> the operator that uses it, in the order of use; ``batchnorm_fix_gamma`` for one
    that takes its gamma as one. Raises FormatError for a file that is no graph.
    """
    try:
        nodes = read_json(path)["nodes"]
        found: dict[str, str] = {}
        for node in nodes:
            for number, *_ in node.get("inputs", ()):
                used = nodes[number]
                if used["op"] == "null":
                    found.setdefault(str(used["name"]), _operator(node))
    except (FormatError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        why = error.reason if isinstance(error, FormatError) else repr(error)
        raise FormatError(path, f"is no graph of MXNet: {why}. Move it away to go by the names alone.") from None
    return found


def _operator(node: Mapping[str, Any]) -> str:
    name = str(node["op"]).lower()
    attributes = node.get("attrs") or node.get("attr") or node.get("param") or {}
    # of the operator, not of gluon's layer: there fix_gamma is the default (src/operator/nn/batch_norm-inl.h)
    fixed = str(attributes.get("fix_gamma", "True")).lower() in ("true", "1")
    return "batchnorm_fix_gamma" if name == "batchnorm" and fixed else name
