"""Convert the book's nets, by schema or by inference alone, and see what the real frameworks make of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import converter
from tests.parity.sides import SIDES, Array, Case, Linen, assert_same, channels_last

FLAVOURS = ("torch", "keras", "linen", "gluon")
#: Every framework into every other.
PAIRS = [(source, target) for source in FLAVOURS for target in FLAVOURS if source != target]
#: Each framework once as the source and once as the target.
RING = [*zip(FLAVOURS, (*FLAVOURS[1:], FLAVOURS[0]), strict=True)]
#: How a conversion is told what is what, and what that is called.
SCHEMA, FILE, LIVE = "schema", "clone file", "live clone"
WAYS = (SCHEMA, FILE, LIVE)


@dataclass
class Made:
    """A net, that gets other weights before every load; its file, and what it gave then; a clone's file."""

    net: Any
    path: Path
    output: Array
    like: Path


@dataclass
class Runs:
    """The conversions of one architecture; every net is made and saved once for all of them.

    run: runs the command line with these words; raises where it fails.
    """

    case: Case
    folder: Path
    run: Callable[..., object] = field(default_factory=lambda: _command_line)
    _made: dict[str, Made] = field(default_factory=dict)

    def made(self, flavour: str) -> Made:
        if flavour not in self._made:
            side = SIDES[flavour]
            paths = [self.folder / f"{self.case.name}-{flavour}-{what}{side.ending}" for what in ("source", "like")]
            net = self.case.anew(flavour, self.case.fresh(flavour), 1)
            side.save(net, paths[0])
            output = self.case.run(flavour, net)
            net = self.case.anew(flavour, net, 2)
            side.save(net, paths[1])
            self._made[flavour] = Made(net, paths[0], output, paths[1])
        return self._made[flavour]

    def converted(self, source: str, target: str, way: str, *words: object) -> None:
        """The file of one framework converted, loaded strictly by the other, gives the same output."""
        ours, theirs = self.made(source), self.made(target)
        result = self.folder / f"{self.case.name}-result{SIDES[target].ending}"
        result.unlink(missing_ok=True)
        direction = f"{SIDES[source].framework}->{SIDES[target].framework}"
        if way == LIVE:
            turned = SIDES[target].last
            inputs = [channels_last(x) if turned and x.ndim > 3 - self.case.spatial else x for x in self.case.inputs]
            net = (theirs.net.module, theirs.net.variables) if isinstance(theirs.net, Linen) else theirs.net
            converter.convert(direction, ours.path, result, like=net, example_input=inputs)
        else:
            told = ("--schema", self.case.name) if way == SCHEMA else ("--like", theirs.like)
            self.run(direction, ours.path, "-o", result, *told, *words)
        loaded = SIDES[target].load(self.case.anew(target, theirs.net, 3), result)
        assert_same(self.case.run(target, loaded), ours.output, self.case.tolerance)


def _command_line(*words: object) -> None:
    from converter.cli import program

    with contextlib.redirect_stdout(io.StringIO()):
        program.main([str(word) for word in words], standalone_mode=False)


def all_cases() -> Mapping[str, Case]:
    """Every net of the book, by the name of its schema."""
    from tests.book import convolutional, sequences, transformers

    return {**convolutional.CASES, **sequences.CASES, **transformers.CASES}
