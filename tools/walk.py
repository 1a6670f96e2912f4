"""The walk of one conversion: the modules of `converter` that it passes through, in order of their first call.

    python tools/walk.py           # all modules, what called each first, and the functions that are called in it
    python tools/walk.py --page    # write the stops into docs/design.md

A stop is a module by which the conversion enters another room for the first time. `core` is left out: its values and
ops are used everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "design.md"
COMMAND = ("torch->flax", "mlp.params")
_TABLE = re.compile(r"(<!-- walk: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


class Visit(NamedTuple):
    """A module on the walk. caller: the module whose call came first. calls: function -> how often it was called."""

    module: str
    caller: str
    calls: Counter[str]


def walk(command: tuple[str, ...] = COMMAND, file: Path = ROOT / "examples" / "mlp.params") -> list[Visit]:
    """Run the command in a folder of its own and write down what is called. What runs on import does not count."""
    from converter.cli import main

    visits: dict[str, Visit] = {}
    importing: Counter[int] = Counter()

    def seen(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code.co_name == "<module>" and event in ("call", "return"):
            importing[threading.get_ident()] += 1 if event == "call" else -1
        elif event == "call" and not importing[threading.get_ident()]:
            name = _module(frame)
            if name:
                visit = visits.setdefault(name, Visit(name, _caller(frame), Counter()))
                visit.calls[_function(frame)] += 1

    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        shutil.copy(file, folder)
        os.chdir(folder)
        threading.setprofile(seen)
        sys.setprofile(seen)
        try:
            main(list(command))
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            os.chdir(here)
    return list(visits.values())


def _module(frame: FrameType) -> str:
    """Without `converter.`; "" for what is not of the package."""
    name = str(frame.f_globals.get("__name__", ""))
    return name.removeprefix("converter.") if name.startswith("converter.") else ""


def _caller(frame: FrameType) -> str:
    above = frame.f_back
    while above is not None and _module(above) in ("", _module(frame)):
        above = above.f_back
    return _module(above) if above is not None else ""


def _function(frame: FrameType) -> str:
    """Comprehensions and inner functions count for the function around them."""
    return frame.f_code.co_qualname.split(".<locals>")[0]


def stops(visits: list[Visit]) -> list[Visit]:
    return [visit for visit in visits if _room(visit.module) not in ("core", _room(visit.caller))]


def _room(module: str) -> str:
    return module.partition(".")[0]


def page(text: str) -> str:
    """The page with the stops as they are today."""
    visits = walk()
    rows = ["| | module | from | what it is for |", "|---|---|---|---|"]
    for number, visit in enumerate(stops(visits), 1):
        doc = importlib.import_module(f"converter.{visit.module}").__doc__ or ""
        first = re.split(r"(?<=\.) ", " ".join(doc.split("\n\n")[0].split()))[0].rstrip(".")
        rows.append(f"| {number} | `{visit.module}` | {f'`{visit.caller}`' if visit.caller else ''} | {first} |")
    rows += ["", f"In all, functions of {len(visits)} modules are called."]
    return _TABLE.sub(lambda match: match[1] + "\n".join(rows) + "\n" + match[2], text)


def main() -> None:
    if "--page" in sys.argv:
        PAGE.write_text(page(PAGE.read_text()))
        return
    visits = walk()
    for number, visit in enumerate(visits, 1):
        functions = ", ".join(name for name, _ in visit.calls.most_common())
        print(f"{number:3} {visit.module:28} from {visit.caller or '-':24} {sum(visit.calls.values()):5}  {functions}")
    print(f"{len(visits)} modules, {sum(sum(visit.calls.values()) for visit in visits)} calls")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
