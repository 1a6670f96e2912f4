"""One row of the zoo: a net of one code base converted into that of another, by files or live, and run."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

import converter
from converter.errors import Placeholder
from converter.schema.loader import NO_SCHEMA
from tests.zoo.net import Family, Net, row_name
from tests.zoo.sides import Array

#: Largest difference of two outputs that are the same, relative to the largest output.
TOLERANCE = 1e-3
#: So often the advice of an error is taken.
ROUNDS = 10
RIGHT, ASKED, WRONG, DIFFERS, FAILED = "right", "asked", "wrong", "differs", "failed"


@dataclass
class Answer:
    """How one way of a row went.

    questions: of the first refusal. advised: how it went with what the errors advise. options: what that was.
    pairing: tensor of the clone -> tensors of the source, of the last conversion.
    """

    result: str
    difference: float | None = None
    questions: int = 0
    advised: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    pairing: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Ready:
    """A net of a family, built and saved with two sets of random values, and what it gives with the first."""

    net: Net
    built: Any
    source: Path
    clone: Path
    output: Array


def prepare(family: Family, net: Net, folder: Path) -> Ready:
    """Raises an AssertionError where the output does not depend on the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    built = family.build(net)
    outputs = []
    files = [folder / f"{name}{net.side.ending}" for name in ("source", "clone")]
    for seed, file in enumerate(reversed(files)):
        built = net.side.randomise(built, np.random.default_rng([seed, *f"{family.name}{net.code}".encode()]))
        net.side.save(built, file)
        outputs.append(family.run(net, built))
    assert np.isfinite(outputs[1]).all(), "an output is not finite"
    assert difference(*outputs) > 0.01, "all weights give the same output"
    return Ready(net, built, *files, outputs[1])


def difference(given: Array, expected: Array) -> float:
    """Relative to the largest value; infinite for another shape."""
    if given.size != expected.size:
        return float("inf")
    return float(np.abs(given.reshape(expected.shape) - expected).max() / np.abs(expected).max())


def by_names(family: Family, source: Ready, clone: Ready, folder: Path) -> Answer:
    """``converter.convert(…, like=CLONE)`` and nothing else; then with what the errors advise."""
    return by_files(family, source, clone, folder, schema=None)


def by_files(family: Family, source: Ready, clone: Ready, folder: Path, schema: str | None = NO_SCHEMA) -> Answer:
    """The same by evidence alone, where no table of known names tells."""
    output = folder / f"converted{clone.net.side.ending}"
    pairing: dict[str, list[str]] = {}

    def once(**options: Any) -> Array:
        way = f"{source.net.side.name}->{clone.net.side.name}"
        report = converter.convert(way, source.source, output, like=clone.clone, force=True, schema=schema, **options)
        for step in report.to_dict()["tensors"]:
            pairing[step["target"]["name"]] = [spec["name"] for spec in step["sources"]]
        clone.built = clone.net.side.load(clone.built, output)
        return family.run(clone.net, clone.built)

    try:
        answer = answered(once, source.output)
    finally:
        output.unlink(missing_ok=True)
    answer.pairing = pairing
    return answer


def by_live_nets(family: Family, source: Ready, clone: Ready, folder: Path) -> Answer:
    """``converter.load_into(clone, source, example_input=x, source_input=x)``, as either takes it, and nothing else."""
    del folder
    taken = {"example_input": family.inputs(clone.net), "source_input": family.inputs(source.net)}

    def once(**options: Any) -> Array:
        source.built = source.net.side.load(source.built, source.source)
        clone.built = clone.net.side.load(clone.built, clone.clone)
        side = clone.net.side
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", converter.CloneWarning)
            filled = converter.load_into(side.live(clone.built), source.net.side.live(source.built), **taken, **options)
        clone.built = side.back(clone.built, filled)
        return family.run(clone.net, clone.built)

    return answered(once, source.output)


WAYS: Mapping[str, Callable[[Family, Ready, Ready, Path], Answer]] = {
    "files": by_files,
    "names": by_names,
    "live": by_live_nets,
}


def answered(once: Callable[..., Array], expected: Array) -> Answer:
    """Whether it was right unaided, or refused; and whether it is right when the advice is taken."""
    start = time.monotonic()
    try:
        answer = compared(once(), expected)
    except converter.ConversionError as error:
        answer = Answer(ASKED, questions=len(error.problems), message=first_line(error))
        options: dict[str, Any] = {}
        for _ in range(ROUNDS):
            if not take(error, options):
                answer.advised = "no advice"
                break
            try:
                last = compared(once(**options), expected)
                answer.advised, answer.difference = last.result, last.difference
                break
            except converter.ConversionError as next_error:
                answer.advised = ASKED
                error = next_error
            except Exception as crash:
                answer.advised = f"{FAILED}: {first_line(crash)}"
                break
        answer.options = options
    except Exception as error:
        answer = Answer(FAILED, message=f"{type(error).__name__}: {first_line(error)}")
    answer.seconds = round(time.monotonic() - start, 2)
    return answer


def compared(given: Array, expected: Array) -> Answer:
    met = difference(given, expected)
    return Answer(RIGHT if met < TOLERANCE else WRONG, met)


def take(error: converter.ConversionError, options: dict[str, Any]) -> bool:
    """Add one remedy of every problem to the options, as a user would; False where that adds nothing."""
    before = repr(options)
    for problem in error.problems:
        taken = options.get("map", {})
        remedies = [
            remedy
            for remedy in (*problem.remedies, *problem.wide)
            if not (remedy.effect or isinstance(remedy.value, Placeholder))
            and not (remedy.option == "map" and (remedy.value[0] in taken or remedy.value[1] in taken.values()))
        ]
        if not remedies:
            continue
        remedy = max(remedies, key=lambda remedy: likeness(remedy.value))
        if isinstance(remedy.value, tuple):
            options.setdefault(remedy.option, {}).setdefault(*remedy.value)
        else:
            options[remedy.option] = remedy.value
    return repr(options) != before


def likeness(value: Any) -> float:
    """Of the two names of a pair: a user takes the candidate that is called most alike, in the block of that number."""
    if not isinstance(value, tuple):
        return 0.0
    words = [re.findall(r"[a-z]+|\d+", str(name).lower()) for name in value]
    numbers = [[word for word in name if word.isdigit()] for name in words]
    return SequenceMatcher(None, *words).ratio() + SequenceMatcher(None, *numbers).ratio()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def keep(cache: Path, family: Family, source: Ready, clone: Ready, answer: Answer | None) -> None:
    """The two files of a row, for whoever works on the pairing, and the pairing where it was right."""
    folder = cache / row_name(family, source.net, clone.net)
    folder.mkdir(parents=True, exist_ok=True)
    for file in (source.source, clone.clone):
        place = folder / file.name
        place.unlink(missing_ok=True)
        place.hardlink_to(file)
    about = {"from": source.net.side.name, "to": clone.net.side.name, "family": family.name, "status": family.status}
    (folder / "row.json").write_text(json.dumps(about))
    if answer and RIGHT in (answer.result, answer.advised):
        (folder / "truth.json").write_text(json.dumps(answer.pairing, indent=1))
