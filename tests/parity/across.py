"""From the net of one case into the net of another that computes the same: other layers, or other names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.parity.sides import SIDES, Case, Pair, assert_same

#: Words of the command line.
Words = Sequence[object]


def into(
    ours: Case, source: str, theirs: Case, target: str, folder: Path, run: Callable[..., object], words: Words = ()
) -> None:
    """By a clone's file."""
    net, given = saved(ours, source, folder, 1)
    _, like = saved(theirs, target, folder, 2, "like")
    result = folder / f"result{SIDES[target].ending}"
    run(_direction(source, target), given, "--like", like, "-o", result, *words)
    assert_same(theirs.run(target, SIDES[target].load(theirs.fresh(target), result)), ours.run(source, net))


def anew(
    ours: Case,
    source: str,
    theirs: Case,
    target: str,
    folder: Path,
    run: Callable[..., object],
    layers: Sequence[Mapping[str, Any]] = (),
    words: Words = (),
) -> None:
    """With no template; by a schema where ``layers`` are given."""
    net, given = saved(ours, source, folder, 3)
    result, schema = folder / f"result{SIDES[target].ending}", folder / "net.yaml"
    schema.write_text(json.dumps({"name": "net", "layers": list(layers)}))  # JSON is YAML
    by_schema = ("--schema", schema) if layers else ()
    run(_direction(source, target), given, "-o", result, *by_schema, *words)
    assert_same(theirs.run(target, SIDES[target].load(theirs.fresh(target), result)), ours.run(source, net))


def saved(case: Case, flavour: str, folder: Path, seed: int, stem: str = "source") -> tuple[Any, Path]:
    """A random net and its file."""
    net, path = case.random(flavour, seed), folder / f"{stem}{SIDES[flavour].ending}"
    SIDES[flavour].save(net, path)
    return net, path


def crossed(ours: Case, theirs: Case) -> list[Any]:
    """The parameters (case, source, other case, target), both ways, with names: every flavour as source and target."""
    return [
        pytest.param(a, source, b, target, id=f"{a.name}-{source}-{b.name}-{target}".replace(" ", "_"))
        for a, b in ((ours, theirs), (theirs, ours))
        for source, target in _each_once(list(a.nets), list(b.nets))
    ]


def _each_once(sources: Sequence[str], targets: Sequence[str]) -> list[Pair]:
    """Pairs of different flavours in which each is there: the i-th with the one after the i-th."""
    count = max(len(sources), len(targets))
    return [(sources[i % len(sources)], targets[(i + 1) % len(targets)]) for i in range(count)]


def _direction(source: str, target: str) -> str:
    return f"{SIDES[source].framework}->{SIDES[target].framework}"
