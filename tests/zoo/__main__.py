"""`make zoo`: every pair of nets of every family; writes docs/zoo.md."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What jax compiles here runs a few times, on small arrays.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import argparse
import gc
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.progress import Progress

import converter.mxnet_numpy2  # noqa: F401 - before MXNet
from tests.places import ROOT
from tests.zoo.families import FAMILIES
from tests.zoo.net import Family, Net, row_name
from tests.zoo.page import HEAD, merged, page
from tests.zoo.rows import DIFFERS, FAILED, WAYS, WRONG, Answer, Ready, first_line, keep, prepare

PAGE = ROOT / "docs" / "zoo.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", action="append", help="rows whose FAMILY--FROM--TO matches")
    parser.add_argument("--live", action="store_true", help="live nets, too")
    parser.add_argument("--names", action="store_true", help="files, by tables of known names, too")
    parser.add_argument("--files", action="store_true", help="files, by evidence alone")
    parser.add_argument("--json", metavar="FILE", type=Path, help="all answers, for programs")
    parser.add_argument("--cache", metavar="FOLDER", type=Path, help="keep the files of every row there")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--page", action="store_true", help="write docs/zoo.md even of some rows")
    parser.add_argument(
        "--merge",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="run nothing: write docs/zoo.md (and --json) of the answers in these files; of a row that several have, "
        "each way as the last one has it",
    )
    return parser.parse_args()


def wanted(only: Sequence[str] | None) -> list[tuple[Family, list[tuple[Net, Net]]]]:
    """The families with the pairs that are asked for."""
    patterns = [pattern if "--" in pattern else f"{pattern}*" for pattern in only or ["*"]]
    chosen = [
        (family, [pair for pair in family.pairs() if any(fnmatch(row_name(family, *pair), p) for p in patterns)])
        for family in FAMILIES
    ]
    return [(family, pairs) for family, pairs in chosen if pairs]


def family_rows(
    family: Family, pairs: Sequence[tuple[Net, Net]], ways: Sequence[str], folder: Path, cache: Path | None
) -> Iterator[dict[str, Any]]:
    """The rows of a family. Each of its nets is built once; one that cannot be built fails its rows alone."""
    ready: dict[str, Ready | str] = {}
    for pair in pairs:
        for net in pair:
            if net.code not in ready:
                ready[net.code] = prepared(family, net, folder)
        source, clone = (ready[net.code] for net in pair)
        row: dict[str, Any] = {
            "row": row_name(family, *pair),
            "family": family.name,
            "status": family.status,
            "source": pair[0].code,
            "clone": pair[1].code,
            "patched": {net.code: net.patched for net in pair},
        }
        if isinstance(source, str) or isinstance(clone, str):
            row["failed"] = source if isinstance(source, str) else clone
            yield row | {way: asdict(Answer(FAILED, message=str(row["failed"]))) for way in ways}
            continue
        row["why"] = (family.differ or {}).get(frozenset(net.code for net in pair), "")
        for way in ways:
            answer = WAYS[way](family, source, clone, folder)
            if row["why"] and answer.result == WRONG:
                answer.result = DIFFERS
            if cache:
                keep(cache, family, source, clone, answer if way != "live" else None)
            row[way] = {name: value for name, value in asdict(answer).items() if name != "pairing"}
        yield row


def prepared(family: Family, net: Net, folder: Path) -> Ready | str:
    try:
        return prepare(family, net, folder / net.code.replace(" ", "_"))
    except Exception as error:
        print(f"{family.name}, {net.code}:", file=sys.stderr)
        traceback.print_exc()
        return f"{net.code}: {type(error).__name__}: {first_line(error)}"


def told(row: dict[str, Any], ways: Sequence[str]) -> str:
    said = []
    for way in ways:
        answer = row[way]
        said.append(f"{way}: {answer['result']}")
        if answer["questions"]:
            said.append(f"{answer['questions']}, then {answer['advised']}")
        if answer["difference"] is not None:
            said.append(f"{answer['difference']:.1e}")
        said.append(f"{answer['seconds']} s {answer['message'][:90]}")
    return f"{row['row']}: {' '.join(said)}"


def main() -> int:
    asked = arguments()
    warnings.simplefilter("ignore")
    chosen = wanted(asked.only)
    if asked.merge:
        rows = merged(asked.merge)
        return finish(rows, [way for way in WAYS if any(way in row for row in rows)], asked.json, True)
    ways = [way for way in WAYS if getattr(asked, way)] or ["files", "names"]
    if asked.list:
        print("\n".join(row_name(family, *pair) for family, pairs in chosen for pair in pairs))
        return 0
    rows = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("rows", total=sum(len(pairs) for _, pairs in chosen))
        for family, pairs in chosen:
            if asked.cache:
                asked.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=asked.cache) as folder:
                for row in family_rows(family, pairs, ways, Path(folder), asked.cache):
                    rows.append(row)
                    progress.console.print(told(row, ways), markup=False, highlight=False, soft_wrap=True)
                    progress.advance(bar)
                    if asked.json:  # what there is, should the rest not come
                        asked.json.write_text(json.dumps(rows, indent=1))
            if "jax" in sys.modules:
                sys.modules["jax"].clear_caches()
            gc.collect()
    return finish(rows, ways, asked.json, asked.page or not asked.only)


def finish(rows: Sequence[dict[str, Any]], ways: Sequence[str], answers: Path | None, to_page: bool) -> int:
    """Write what is asked for, and print the sums. The exit code tells of rows that are wrong or failed."""
    text = page(rows, ways)
    if to_page:
        PAGE.write_text(text)
    if answers:
        answers.write_text(json.dumps(rows, indent=1))
    print(text[len(HEAD) :].split("\n\n")[0])
    return int(any(row[way]["result"] in (WRONG, FAILED) for row in rows for way in ways if way in row))


if __name__ == "__main__":
    sys.exit(main())
