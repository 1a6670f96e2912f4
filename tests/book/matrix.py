"""`make schemas`: the book's nets, every ordered pair of frameworks, by schema and by inference (docs/schemas.md)."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import contextlib
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"
#: The modules of this folder that have nets, by the name of their schema, in ``CASES``.
MODULES = ("convolutional",)
FLAVOURS = ("torch", "keras", "linen", "gluon")
PAIRS = [(source, target) for source in FLAVOURS for target in FLAVOURS if source != target]
TITLES = {"torch": "PyTorch", "keras": "Keras", "linen": "Flax", "gluon": "MXNet"}
WAYS = {"schema": "By `--schema NAME` alone, with no template", "inference": "By `--like CLONE` alone, with no schema"}
HEAD = """# The nets of Dive into Deep Learning

Written by `make schemas`. Each net is built as the book builds it in each of the four frameworks, with fewer channels.
Every weight and statistic is random; the file is saved by the one framework, converted by the command line, loaded
strictly by the other, and the outputs compared (relative error 1e-5). `converter schema show NAME` prints a schema.

"""

#: (architecture, source, target, way) -> what went wrong; "" for nothing.
Results = Mapping[tuple[str, str, str, str], str]


def results(modules: Sequence[str] = MODULES) -> Results:
    """Every net of these modules, every pair, both ways."""
    import converter.mxnet_numpy2  # noqa: F401 - before MXNet
    from converter.cli import program
    from tests.book.runs import Runs

    def run(*words: object) -> None:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            program.main([str(word) for word in words], standalone_mode=False)

    found = {}
    for module in modules:
        for name, case in importlib.import_module(f"tests.book.{module}").CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                runs = Runs(case, Path(folder))
                for way, convert in (("schema", runs.by_schema), ("inference", runs.by_inference)):
                    for source, target in PAIRS:
                        found[name, source, target, way] = ""
                        try:
                            convert(source, target, run)
                        except Exception as error:
                            found[name, source, target, way] = str(error).strip().replace(f"{folder}/", "")
    return found


def page(found: Results) -> str:
    """A table for each way, rows are nets; then what failed."""
    nets = list(dict.fromkeys(name for name, *_ in found))
    lines = []
    for way, title in WAYS.items():
        right = [key for key, wrong in found.items() if key[3] == way and not wrong]
        lines += [f"## {title}", "", f"{len(right)} of {len(nets) * len(PAIRS)} conversions.", ""]
        lines += ["| net | " + " | ".join(f"{TITLES[a]} → {TITLES[b]}" for a, b in PAIRS) + " |"]
        lines += ["|---" + "|:-:" * len(PAIRS) + "|"]
        for name in nets:
            cells = ["no" if found[name, a, b, way] else "yes" for a, b in PAIRS]
            lines.append(f"| [{name}](../schemas/{name}.yaml) | {' | '.join(cells)} |")
        failed = [(key, wrong) for key, wrong in found.items() if key[3] == way and wrong]
        lines += ["", *(f"- {a}, {TITLES[b]} to {TITLES[c]}: {_first(wrong)}" for (a, b, c, _), wrong in failed)]
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
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
