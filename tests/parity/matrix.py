"""`make parity`: every case, every ordered pair of flavours, in real frameworks; writes docs/parity.md."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import importlib
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "parity.md"
FLAVOURS = ("torch", "keras", "tf_keras", "linen", "nnx", "gluon")
HEAD = """# Parity

Written by `make parity`. Each case is a real net in the source flavour with every weight, bias and statistic random:
saved by its framework, converted by the command line, loaded strictly by the target framework, and run. A cell counts
the cases whose outputs agree (relative error 1e-5) out of those that both flavours can express. What a flavour cannot
express is refused with a reason, and tested beside the cases.

"""

#: (case, source, target) -> what went wrong; "" for nothing.
Results = Mapping[tuple[str, str, str], str]


def run_module(name: str) -> Results:
    """Every case of one module of cases."""
    import converter.mxnet_numpy2  # noqa: F401 - before MXNet
    from converter.cli import program
    from tests.parity.sides import by_clone

    def run(*words: object) -> None:
        program.main([str(word) for word in words], standalone_mode=False)

    found = {}
    with open(os.devnull, "w") as nothing:
        shown, sys.stdout = sys.stdout, nothing
        for case in importlib.import_module(f"tests.parity.{name}").CASES:
            for source, target in case.pairs():
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        by_clone(case, source, target, Path(folder), run)
                        found[case.name, source, target] = ""
                    except Exception:
                        found[case.name, source, target] = traceback.format_exc(limit=-1).strip().splitlines()[-1]
        sys.stdout = shown
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
        for found in pool.map(run_module, modules):
            results |= found
    text = page(results)
    PAGE.write_text(text)
    print(text[len(HEAD) :])
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
