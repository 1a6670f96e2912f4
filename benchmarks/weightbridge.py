"""This program beside weightbridge, the nearest existing tool, on the same nets: right, refused, or silently wrong.

    python -m benchmarks.weightbridge        # writes docs/weightbridge.md; needs pip install weightbridge==0.0.4

A net of one framework gets random weights, both tools bring them into a fresh clone in another framework (same names,
same hyper-parameters), and the outputs are compared. Right is an equal output; refused is an error; the rest is
silently wrong. Both are asked twice: as they are, and told what no file can tell.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import converter.mxnet_numpy2  # the flavours of the tests import MXNet

# isort: split
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch
import weightbridge

import converter
from benchmarks.weightbridge_nets import CASES
from tests.parity.sides import SIDES, Case, Linen, assert_same

PAGE = Path(__file__).parent.parent / "docs" / "weightbridge.md"
TITLES = {"torch": "PyTorch", "keras": "Keras", "linen": "Flax"}
FORMATS = {"torch": "pytorch", "keras": "tensorflow", "linen": "flax"}
PACKAGES = ("weightbridge", "torch", "keras", "flax")
RIGHT, REFUSED, WRONG = "right", "refused", "wrong"
Tensors = Mapping[str, Any]
HEAD = """# Beside weightbridge

Written by `python -m benchmarks.weightbridge` ({versions}).

weightbridge is the nearest existing tool: it pairs weights by names and shapes, and permutes their axes by one rule for
each framework. Both tools bring the random weights of a real net into a clone in another framework, with the same names
and hyper-parameters, for every ordered pair of {frameworks} that have the layers. *Right* is an equal output (relative
error 1e-5), *refused* an error, and *wrong* another output, and no word about it.

*Told*: this program gets the options that its errors ask for (`--kind`, `--heads`, `--flatten`), weightbridge the names
of the layers as hints. This program gets the files that the frameworks save, and the file of a fresh clone.
weightbridge gets two dicts of weights, without PyTorch's counters of batches, which it would not leave out, and with
the parameters and the statistics of Flax side by side.
"""


# -- weightbridge, as its README says: two dicts of names to weights, the formats, and hints where it asks for them ---


def tensors(flavour: str, net: Any) -> Tensors:
    """The weights by name. Without PyTorch's counter of batches, which weightbridge would refuse to leave out."""
    if flavour == "torch":
        state = net.state_dict()
        return {name: value.numpy() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    if flavour == "keras":
        return {variable.path: np.asarray(variable) for variable in net.weights}
    flat = flax.traverse_util.flatten_dict(net.variables, sep="/")
    # parameters and statistics side by side, as the other frameworks name them
    return {name.partition("/")[2]: np.asarray(value) for name, value in flat.items()}


def filled(flavour: str, net: Any, values: Tensors) -> Any:
    """The net with these weights. Raises an error when a name or a shape is not its own."""
    if flavour == "torch":
        state = {name: torch.tensor(np.asarray(value)) for name, value in values.items()}
        counters = {name: value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")}
        net.load_state_dict({**counters, **state}, strict=True)
        return net.eval()
    if flavour == "keras":
        for variable in net.weights:
            variable.assign(values[variable.path])
        return net
    given = {name: jnp.asarray(value) for name, value in values.items()}
    place = lambda path, old: given["/".join(key.key for key in path[1:])].reshape(old.shape)  # noqa: E731
    return Linen(net.module, jax.tree_util.tree_map_with_path(place, net.variables))


def by_weightbridge(case: Case, source: str, target: str, net: Any, told: bool) -> Any:
    clone = case.fresh(target)
    given, wanted = tensors(source, net), tensors(target, clone)
    hints = {(layer, layer) for layer in {re.split(r"[./]", name)[0] for name in given}} if told else set()
    separators = {"torch": ".", "keras": "/", "linen": "/"}
    while True:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = weightbridge.adapt(
                    dict(given),
                    dict(wanted),
                    in_format=FORMATS[source],
                    out_format=FORMATS[target],
                    in_separator=separators[source],
                    out_separator=separators[target],
                    hints=sorted(hints),
                )
            return filled(target, clone, found)
        except ValueError as error:  # a hint that was not needed is an error, too
            unused = re.fullmatch(r"Unused hints: (.*)", str(error))
            if not unused:
                raise
            hints -= ast.literal_eval(unused[1])


# -- this program: a file, and the file of a fresh clone --------------------------------------------------------------


def by_converter(case: Case, source: str, target: str, net: Any, told: bool) -> Any:
    ours, theirs = SIDES[source], SIDES[target]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given, like, result = (
            folder / f"{stem}{side.ending}" for stem, side in (("source", ours), ("like", theirs), ("result", theirs))
        )
        ours.save(net, given)
        theirs.save(theirs.randomise(case.fresh(target), np.random.default_rng(2)), like)
        options = _options(case.words(source, target)) if told else {}
        converter.convert(f"{ours.framework}->{theirs.framework}", given, result, like=like, **options)
        return theirs.load(case.fresh(target), result)


def _options(words: tuple[str, ...]) -> Mapping[str, Any]:
    """``--kind up=conv_transpose`` as `converter.convert` takes it."""
    found: dict[str, dict[str, Any]] = {}
    for option, text in zip(words[::2], words[1::2], strict=True):
        layer, _, value = text.partition("=")
        found.setdefault(option.removeprefix("--"), {})[layer] = int(value) if value.isdigit() else value
    return found


TOOLS: Mapping[str, Callable[[Case, str, str, Any, bool], Any]] = {
    "this program": by_converter,
    "weightbridge": by_weightbridge,
}


def outcome(tool: str, case: Case, source: str, target: str, told: bool) -> str:
    net = SIDES[source].randomise(case.fresh(source), np.random.default_rng(1))
    expected = case.run(source, net)
    try:
        clone = TOOLS[tool](case, source, target, net, told)
    except Exception as error:
        if tool == "this program" and not isinstance(error, converter.ConversionError):
            raise
        return REFUSED
    try:
        assert_same(case.run(target, clone), expected)
    except AssertionError:
        return WRONG
    return RIGHT


# -- the page ---------------------------------------------------------------------------------------------------------


def cell(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in (RIGHT, REFUSED, WRONG) if counts[word])


def page(results: Mapping[tuple[str, bool], Mapping[str, Mapping[tuple[str, str], str]]]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    columns = [(tool, told) for told in (False, True) for tool in TOOLS]
    lines = [
        HEAD.format(versions=versions, frameworks=", ".join(TITLES.values())),
        "| net | " + " | ".join(f"{tool}{', told' if told else ''}" for tool, told in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for case in CASES:
        cells = [cell(Counter(results[column][case.name].values())) for column in columns]
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    totals = [Counter(word for of in results[column].values() for word in of.values()) for column in columns]
    lines.append("| **all** | " + " | ".join(cell(total) for total in totals) + " |")
    lines += ["", "## Silently wrong", ""]
    for column in columns:
        wrong = {
            name: [f"{TITLES[a]} → {TITLES[b]}" for (a, b), word in of.items() if word == WRONG]
            for name, of in results[column].items()
        }
        told = ", told" if column[1] else ""
        lines += [f"- {column[0]}{told}, {name}: {', '.join(found)}" for name, found in wrong.items() if found]
    lines += [] if any(total[WRONG] for total in totals) else ["Nothing."]
    return "\n".join(lines) + "\n"


def main() -> None:
    results: dict[tuple[str, bool], dict[str, dict[tuple[str, str], str]]] = {}
    for told in (False, True):
        for tool in TOOLS:
            found = results.setdefault((tool, told), {})
            for case in CASES:
                found[case.name] = {(a, b): outcome(tool, case, a, b, told) for a, b in permutations(case.nets, 2)}
                print(
                    f"{tool}{', told' if told else ''}: {case.name}: {cell(Counter(found[case.name].values()))}",
                    flush=True,
                )
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
