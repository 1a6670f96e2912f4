"""What a conversion did, for people (a short table) and for programs (`Report.to_dict`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import asdict

from converter.core.arithmetic import Lost
from converter.core.tensors import TensorSpec
from converter.errors import text_of
from converter.formats import Reader
from converter.matching.pairs import names_known_by
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step
from converter.reports.checklist import Check
from converter.reports.tables import shape_dict, table

#: What is said once of all that a table of known names pairs. {}: the family and the two code bases.
KNOWN = "known names: {} ('schema' none pairs without them)"
#: The same of all that is likely. {}: how many layers are, and of how many.
LIKELY = "likely, and not certain: {} of {} layers ('map' and 'kind' say otherwise, 'strict' refuses them)"


class HasDict(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class Proof(HasDict, Protocol):
    """What two nets gave for one input (`converter.verify`)."""

    def verdict(self) -> str: ...


class Carried(HasDict, Protocol):
    """What is done with the state of an optimizer (`converter.training`)."""

    @property
    def weights(self) -> int: ...

    @property
    def apart(self) -> TensorPlan | None: ...

    @property
    def files(self) -> tuple[Path, ...]: ...

    def lines(self) -> list[str]: ...

    def reader(self, reader: Reader) -> Reader: ...


class Report(msgspec.Struct, frozen=True):
    """source, output: paths as text; ``*_format``: titles of the formats; ``plan``: every tensor.

    written: False for a plan that was only made. checks: what weights do not carry.
    lost: how many values of which target tensor the option ``dtype`` made infinite, or zero.
    proof: what both nets gave, layer by layer, where they were run. training: what was carried beside the weights.
    """

    source: str
    source_format: str
    output: str
    output_format: str
    plan: TensorPlan
    written: bool = True
    checks: tuple[Check, ...] = ()
    lost: Lost = msgspec.field(default_factory=Lost)
    proof: Proof | None = None
    training: Carried | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": {"path": self.source, "format": self.source_format},
            "output": {"path": self.output, "format": self.output_format, "written": self.written},
            "tensors": [_step_dict(step) for step in self.plan.steps],
            "left_out": [{"name": item.name, "reason": item.reason} for item in self.plan.left_out],
            "overflow": dict(self.lost.infinite),
            "underflow": dict(self.lost.zero),
            "flatten": [asdict(item) for item in self.plan.flattened],
            "checklist": [asdict(check) for check in self.checks],
            **({"proof": self.proof.to_dict()} if self.proof is not None else {}),
            **({"training": self.training.to_dict()} if self.training is not None else {}),
        }

    def html(self, proof: HasDict | None = None) -> str:
        """A page to look at, in one file. proof: what `converter.verify` found, instead of that of the conversion."""
        from converter.reports.page.write import page_of_report  # few conversions are looked at

        shown = proof or self.proof
        return page_of_report(self.to_dict(), shown.to_dict() if shown is not None else None)

    def __str__(self) -> str:
        rows = [["layer", "kind", "source", "", "target", "done", "paired by"]]
        layer = None
        for step in self.plan.steps[: self.training.weights if self.training else None]:
            first = step.layer != layer
            layer = step.layer
            sources = " + ".join([*map(named, step.sources), *(f"clone: {named(spec)}" for spec in step.own)])
            head = [step.layer, step.kind] if first else ["", ""]
            rows.append([*head, sources, "→", named(step.target), step.done, _why(step) if first else ""])
        lines = [f"{self.source} ({self.source_format})", "", *table(rows), ""]
        lines += [f"left out: {item.name} ({item.reason})" for item in self.plan.left_out]
        lines += map(str, self.plan.flattened)
        lines += [KNOWN.format(of) for of in sorted({names_known_by(step.reason) for step in self.plan.steps} - {""})]
        likely = {step.layer for step in self.plan.steps if step.likely}
        lines += [LIKELY.format(len(likely), len({step.layer for step in self.plan.steps}))] if likely else []
        lines += lost_lines(self.lost, self.plan.contents.by_name)
        written = "written" if self.written else "would be written"
        lines.append(f"{len(self.plan.steps)} tensors {written} to {self.output} ({self.output_format})")
        lines += [f"both nets were run: {self.proof.verdict()}"] if self.proof is not None else []
        lines += map(str, self.checks)
        lines += self.training.lines() if self.training is not None else []
        return text_of(lines)


def lost_lines(lost: Lost, specs: Mapping[str, TensorSpec]) -> list[str]:
    """What casts made infinite, and what they made zero; nothing where there is none."""
    kinds = (("overflow", "large", "inf", lost.infinite), ("underflow", "small", "zero", lost.zero))
    return [
        f"{title}: {counts[name]} {'values' if counts[name] > 1 else 'value'} of {name} "
        f"{'are' if counts[name] > 1 else 'is'} too {what} for {specs[name].dtype.name}, and became {result}"
        for title, what, result, counts in kinds
        for name in specs
        if counts[name]
    ]


def _why(step: Step) -> str:
    return f"likely: {step.reason}" if step.likely else step.reason


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "layer": step.layer,
        "kind": step.kind,
        "sources": [shape_dict(spec) for spec in step.sources],
        **({"kept": [shape_dict(spec) for spec in step.own]} if step.own else {}),
        "target": shape_dict(step.target),
        "done": [str(op) for op in step.ops],
        "reason": step.reason,
        "likely": step.likely,
    }


def named(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.shape}"
