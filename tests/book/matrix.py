"""`make schemas`: the book's nets, every pair of frameworks, by schema and by inference (docs/schemas.md)."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tempfile
from collections.abc import Mapping
from pathlib import Path

import converter.mxnet_numpy2  # noqa: F401 - before MXNet
from tests.book.runs import FILE, LIVE, PAIRS, SCHEMA, Runs, all_cases
from tests.places import ROOT

PAGE = ROOT / "docs" / "schemas.md"
TITLES = {"torch": "PyTorch", "keras": "Keras", "linen": "Flax", "gluon": "MXNet"}
HEADS = {
    SCHEMA: "By `--schema NAME` alone, with no template",
    FILE: "By `--like CLONE_FILE` alone, with no schema",
    LIVE: "By `--like package.module:Net` and `--example-input` alone, with no schema",
}
HEAD = """# The nets of Dive into Deep Learning

Written by `make schemas`. Each net is built as the book builds it in each of the four frameworks, with fewer channels.
Every weight and statistic is random; the file is saved by the one framework, converted by the command line, loaded
strictly by the other, and the outputs compared (relative error 1e-5). `converter schema show NAME` prints a schema.

"""

#: (architecture, source, target, way) -> "yes", or what went wrong.
Results = Mapping[tuple[str, str, str, str], str]


def results() -> Results:
    """Every net, every pair, every way."""
    found = {}
    for name, case in all_cases().items():
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(case, Path(folder))
            for way in HEADS:
                for source, target in PAIRS:
                    try:
                        runs.converted(source, target, way)
                        found[name, source, target, way] = "yes"
                    except Exception as error:
                        found[name, source, target, way] = str(error).strip().replace(f"{folder}/", "")
    return found


def page(found: Results) -> str:
    """A table for each way, rows are nets; then what failed."""
    nets = list(dict.fromkeys(name for name, *_ in found))
    lines = []
    for way, title in HEADS.items():
        said = {key[:3]: answer for key, answer in found.items() if key[3] == way}
        right = [*said.values()].count("yes")
        lines += [f"## {title}", "", f"{right} of {len(said)} conversions with nothing else said.", ""]
        lines += ["| net | " + " | ".join(f"{TITLES[a]} → {TITLES[b]}" for a, b in PAIRS) + " |"]
        lines += ["|---" + "|:-:" * len(PAIRS) + "|"]
        for name in nets:
            cells = ["yes" if said[name, a, b] == "yes" else "no" for a, b in PAIRS]
            lines.append(f"| [{name}](../schemas/{name}.yaml) | {' | '.join(cells)} |")
        failed = [(key, answer) for key, answer in said.items() if answer != "yes"]
        lines += ["", *(f"- {a}, {TITLES[b]} to {TITLES[c]}: {_first(answer)}" for (a, b, c), answer in failed)]
        lines += [""] * bool(failed)
    return HEAD + "\n".join(lines).rstrip() + "\n"


def _first(message: str) -> str:
    first, *others = message.splitlines()
    return f"{first} (and {len(others)} more lines)" if others else first


def main() -> int:
    found = results()
    text = page(found)
    PAGE.write_text(text)
    print(text[len(HEAD) :])
    return 0 if {*found.values()} <= {"yes"} else 1


if __name__ == "__main__":
    sys.exit(main())
