"""What a partial reuse did: what was taken and why, what was left, and what to freeze."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import asdict

from converter.core.arithmetic import Lost
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import text_of
from converter.flattening.walk import Flattened
from converter.formats import LeftOut
from converter.matching.partial import SLICED, Skipped
from converter.planning.reuse import Reused
from converter.reports.checklist import Check
from converter.reports.conversion import lost_lines, named
from converter.reports.tables import shape_dict, table


class ReuseReport(msgspec.Struct, frozen=True):
    """old, into, output: paths, or the class of a live net; ``output`` is "" when a live net was filled.

    order: which layers are "the first"; "" when they were named. reused: the layers that were taken.
    skipped: those that were asked for, and do not fit. unused: those that were not asked for.
    kept: the tensors of the new net that no old one went into. not_carried: what the new file holds beside
    tensors, and the output does not. net: the live net (for linen a new tree), if one was filled. new: the layers
    of the new net. written: False for a dry run. lost: what the option ``dtype`` made infinite, or zero.
    specs: what is written, by name.
    """

    old: str
    old_format: str
    into: str
    into_format: str
    output: str
    output_format: str
    order: str
    reused: tuple[Reused, ...]
    skipped: tuple[Skipped, ...]
    unused: tuple[str, ...]
    kept: tuple[str, ...]
    not_carried: tuple[LeftOut, ...]
    flattened: tuple[Flattened, ...]
    checks: tuple[Check, ...]
    new: Net
    net: Any = None
    written: bool = True
    lost: Lost = msgspec.field(default_factory=Lost)
    specs: Mapping[str, TensorSpec] = {}

    def __repr__(self) -> str:
        """Without the nets, which would fill a screen."""
        return f"<{len(self.reused)} layers of {self.old} in {self.into}>"

    @property
    def freeze(self) -> tuple[str, ...]:
        """The parameters that came from the old net as a whole, as the framework of the new one spells them."""
        return tuple(name for one in self.reused for name in one.freeze)

    @property
    def in_part(self) -> tuple[str, ...]:
        """The layers of the new net that were taken in part, and are not to be frozen."""
        return tuple(one.taking.target.path for one in self.reused if one.taking.how == SLICED)

    def to_dict(self) -> dict[str, Any]:
        return {
            "old": {"path": self.old, "format": self.old_format},
            "into": {"path": self.into, "format": self.into_format},
            "output": {"path": self.output, "format": self.output_format} if self.output else None,
            "written": self.written,
            "order": self.order,
            "taken": [_layer_dict(one) for one in self.reused],
            "skipped": [asdict(one) for one in self.skipped],
            "unused": list(self.unused),
            "kept": list(self.kept),
            "not_carried": [asdict(item) for item in self.not_carried],
            "flattened": [asdict(item) for item in self.flattened],
            "freeze": list(self.freeze),
            "in_part": list(self.in_part),
            "overflow": dict(self.lost.infinite),
            "underflow": dict(self.lost.zero),
            "checklist": [asdict(check) for check in self.checks],
        }

    def __str__(self) -> str:
        rows = [["old layer", "new layer", "kind", "old", "", "new", "done", "paired by"]]
        for one in self.reused:
            taking = one.taking
            for i, step in enumerate(one.steps):
                sources = " + ".join(map(named, step.sources))
                head = [taking.source.path, taking.target.path, step.kind] if i == 0 else ["", "", ""]
                rows.append([*head, sources, "→", named(step.target), step.done, "" if i else taking.reason])
        lines = [f"{self.old} ({self.old_format}) into {self.into} ({self.into_format})"]
        lines += [f"first: by {self.order}"] if self.order else []
        lines += ["", *table(rows), ""]
        lines += [f"skipped: {one.layer}: {one.reason}" for one in self.skipped]
        lines += map(str, self.flattened)
        lines += _line("not used of the old net", self.unused)
        lines += _line("as they were in the new net", self.kept)
        lines += [f"not carried over from {self.into}: {item.name} ({item.reason})" for item in self.not_carried]
        lines += _line("taken in part, so not to freeze", self.in_part)
        lines += _line("to freeze", self.freeze)
        lines += lost_lines(self.lost, self.specs)
        count = sum(len(one.steps) for one in self.reused)
        would = "" if self.written else "would be "
        where = f"written to {self.output} ({self.output_format})" if self.output else f"set in {self.into}"
        lines.append(f"{count} tensors of the old net, {len(self.kept)} of the new one, {would}{where}")
        lines += map(str, self.checks)
        return text_of(lines)


def _layer_dict(one: Reused) -> dict[str, Any]:
    return {
        "layer": one.taking.source.path,
        "into": one.taking.target.path,
        "kind": one.steps[0].kind,
        "how": one.taking.how,
        "reason": one.taking.reason,
        "freeze": list(one.freeze),
        "tensors": [
            {
                "sources": [shape_dict(spec) for spec in step.sources],
                "target": shape_dict(step.target),
                "done": [str(op) for op in step.ops],
            }
            for step in one.steps
        ],
    }


def _line(title: str, names: Iterable[str]) -> list[str]:
    joined = ", ".join(names)
    return [f"{title}: {joined}"] if joined else []
