"""`make parity`: every case, every ordered pair of flavours, in real frameworks; writes docs/parity.md."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import contextlib
import importlib
import io
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.parity.sides import Case

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "parity.md"
FLAVOURS = ("torch", "keras", "tf_keras", "linen", "nnx", "gluon")
HEAD = """# Parity

Written by `make parity`. Each case is a real net in the source flavour with every weight, bias and statistic random:
saved by its framework, converted by the command line, loaded strictly by the target framework, and run. A cell counts
the cases whose outputs agree (relative error 1e-5) out of those that both flavours can express. What a flavour cannot
express is refused with a reason, and tested beside the cases; so are schemas, live nets, exported MXNet nets, the
neutral file and double precision (tests/parity). PyTorch alone keeps normalised layers in pieces, which are folded.

"""

#: (case, source, target) -> what went wrong; "" for nothing.
Results = Mapping[tuple[str, str, str], str]


def cases(module: str) -> Sequence[Case]:
    import converter.mxnet_numpy2  # noqa: F401 - before MXNet

    found: Sequence[Case] = importlib.import_module(f"tests.parity.{module}").CASES
    return found


def count(module: str) -> int:
    return len(cases(module))


def run_case(module: str, number: int) -> Results:
    """One case of a module, from every flavour into every other."""
    case = cases(module)[number]
    from converter.cli import program
    from tests.parity.sides import by_clone

    def run(*words: object) -> None:
        program.main([str(word) for word in words], standalone_mode=False)

    found = {}
    for source, target in case.pairs():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            try:
                by_clone(case, source, target, Path(folder), run)
                found[case.name, source, target] = ""
            except Exception:
                found[case.name, source, target] = traceback.format_exc(limit=-1).strip().splitlines()[-1]
    return found


def page(results: Results) -> str:
    """The matrix (rows are sources), then how each case fared, then what failed."""
    pairs = Counter((source, target) for _, source, target in results)
    passed = Counter((source, target) for (_, source, target), wrong in results.items() if not wrong)
    lines = ["| from, to | " + " | ".join(FLAVOURS) + " |", "|---" + "|:-:" * len(FLAVOURS) + "|"]
    for source in FLAVOURS:
        cells = [f"{passed[source, target]}/{pairs[source, target]}" for target in FLAVOURS]
        lines.append(f"| **{source}** | {' | '.join(cells)} |")
    cases = Counter(case for case, _, _ in results)
    right = Counter(case for (case, _, _), wrong in results.items() if not wrong)
    lines += ["", f"{passed.total()} of {pairs.total()} conversions.", "", "| case | passed |", "|---|:-:|"]
    lines += [f"| {case} | {right[case]}/{total} |" for case, total in cases.items()]
    lines += [
        f"\n- {case}, {source} to {target}: {wrong}" for (case, source, target), wrong in results.items() if wrong
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    modules = sorted(path.stem for path in FOLDER.glob("*_cases.py"))
    results: dict[tuple[str, str, str], str] = {}
    with ProcessPoolExecutor(2) as pool:
        work = [(module, number) for module in modules for number in range(pool.submit(count, module).result())]
        for found in pool.map(run_case, *zip(*work, strict=True)):
            results |= found
    text = page(results)
    PAGE.write_text(text)
    print(text[len(HEAD) :])
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
