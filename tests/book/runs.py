"""Convert the book's nets, by schema alone or by inference alone, and see what the real frameworks make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.book.classifier import FLAVOURS
from tests.parity.sides import SIDES, Array, Case, assert_same

#: Runs the command line with these words; raises where it fails.
Run = Callable[..., object]


@dataclass(frozen=True)
class Saved:
    """The file of a net of random weights, and what that net gave."""

    path: Path
    output: Array


@dataclass
class Runs:
    """The conversions of one architecture; every net is saved once for all of them."""

    case: Case
    folder: Path

    @cached_property
    def sources(self) -> dict[str, Saved]:
        return {flavour: self._saved(flavour, 1) for flavour in FLAVOURS}

    @cached_property
    def clones(self) -> dict[str, Saved]:
        return {flavour: self._saved(flavour, 2) for flavour in FLAVOURS}

    def _saved(self, flavour: str, seed: int) -> Saved:
        path = self.folder / f"{self.case.name}-{flavour}-{seed}{SIDES[flavour].ending}"
        net = self.case.random(flavour, seed)
        SIDES[flavour].save(net, path)
        return Saved(path, self.case.run(flavour, net))

    def by_schema(self, source: str, target: str, run: Run) -> Path:
        """With no template: the shipped schema names the layers. The result, which the target loads and computes."""
        return self._converted(source, target, run, "--schema", self.case.name)

    def by_inference(self, source: str, target: str, run: Run) -> Path:
        """With a clone's file and nothing else."""
        return self._converted(source, target, run, "--like", self.clones[target].path)

    def _converted(self, source: str, target: str, run: Run, *words: object) -> Path:
        ours, theirs = SIDES[source], SIDES[target]
        given = self.sources[source]
        result = self.folder / f"{self.case.name}-{source}-{target}-{str(words[0]).strip('-')}{theirs.ending}"
        run(f"{ours.framework}->{theirs.framework}", given.path, "-o", result, *words)
        net = self.case.random(target, 3)  # what is not loaded stays as random as it was
        assert_same(self.case.run(target, theirs.load(net, result)), given.output, self.case.tolerance)
        return result
