"""Run what the README and the pages of the docs show, and write what it prints into them (`python tools/pages.py`).

A page is run from top to bottom in a folder of its own. A comment `<!-- files: mlp.params = examples/mlp.params -->`
puts files of the repository there. Of the blocks of code

- `console` is a session: each line `$ COMMAND`, and below it what the command prints, on both streams. A command may
  fail only if its output says so (`error: …`) or the next command is `echo $?`.
- `python` is run, in one namespace for the page. What it prints stands in a block `text` after it. With a title,
  such as `title="net.py"`, it is written into a file of that name instead.
- `sh` is not run (it needs a cluster, a network, an environment); the options of its `convert` and `converter`
  commands must exist.

In an output that is shown, a line `…` stands for any number of lines.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
#: The pages whose blocks are run.
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    ROOT / "docs" / "pairing.md",
    ROOT / "docs" / "training.md",
    *sorted((ROOT / "docs" / "tasks").glob("*.md")),
)
_FILES = re.compile(r"<!-- files: (.*?) -->", re.DOTALL)
_FENCE = re.compile(r"^```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_ELLIPSIS = "…"


class Block(NamedTuple):
    """A fenced block of code. start, end: of its body, in the text of the page."""

    language: str
    title: str
    body: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["info"])
        found.append(
            Block(match["language"], title[1] if title else "", match["body"], match.start("body"), match.end("body"))
        )
    return found


def current(text: str) -> str:
    """The page with every output as it is printed today."""
    out, at = [], 0
    with _folder(text) as session:
        row = blocks(text)
        for number, block in enumerate(row):
            after = row[number + 1] if number + 1 < len(row) else None
            if block.language == "console":
                out += [text[at : block.start], session.console(block.body)]
                at = block.end
            elif block.language == "python" and block.title:
                Path(block.title).write_text(block.body)
            elif block.language == "python":
                printed = session.python(block.body)
                if after is not None and after.language == "text":
                    out += [text[at : after.start], _kept(after.body, printed)]
                    at = after.end
                elif printed:
                    raise AssertionError(f"no block `text` shows what this prints:\n{block.body}\n{printed}")
            elif block.language == "sh":
                for line in block.body.replace("\\\n", " ").splitlines():
                    _parse(line)
    return "".join([*out, text[at:]])


class _Session:
    """A folder, the namespace of a page, and the exit code of its last command."""

    def __init__(self) -> None:
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.code = 0

    def console(self, body: str) -> str:
        parts = re.split(r"(?m)^\$ ", body)
        assert not parts[0].strip(), f"a session begins with '$ ': {body}"
        out = []
        for number, part in enumerate(parts[1:]):
            command, _, shown = part.partition("\n")
            while command.endswith("\\"):
                more, _, shown = shown.partition("\n")
                command += f"\n{more}"
            printed = self.run(command.replace("\\\n", " "))
            told = parts[number + 2].startswith("echo $?") if number + 2 < len(parts) else False
            assert not self.code or told or printed.startswith("error:"), f"{command} failed:\n{printed}"
            out.append(f"$ {command}\n{_kept(shown, printed)}")
        return "".join(out)

    def run(self, command: str) -> str:
        """What a command prints."""
        words = shlex.split(command, comments=True)
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[words.index(">") + 1]
        if command == "echo $?":
            code, self.code = self.code, 0
            return f"{code}\n"
        if words[0] == "ls":
            self.code = 0
            return "".join(f"{name}\n" for name in sorted(os.listdir(words[1] if len(words) > 1 else ".")))
        if words[0] == "cat":
            self.code = 0
            return Path(words[1]).read_text()
        with _captured() as printed:
            if words[0] in ("convert", "converter"):
                self.code = _main(words)
            elif words[0] == "python":
                runpy.run_path(words[1], run_name="__main__")
                self.code = 0
            else:
                raise AssertionError(f"no page may run '{command}' here: make it a block `sh`")
        text = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
        text = text.replace(str(Path.cwd()), "/home/me")
        if target is None:
            return text
        Path(target).write_text(text)
        return ""

    def python(self, body: str) -> str:
        with _captured() as printed:
            exec(compile(body, "<page>", "exec"), self.namespace)
        return printed.getvalue()


@contextlib.contextmanager
def _folder(text: str) -> Iterator[_Session]:
    """A folder with the files that the page names, as the current one; modules of it are forgotten after."""
    here, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        for pair in ",".join(_FILES.findall(text)).split(","):
            if pair.strip():
                name, file = (part.strip() for part in pair.split("="))
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, Path(folder) / name)
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            yield _Session()
        finally:
            os.chdir(here)
            sys.path[:] = path
            for name in set(sys.modules) - modules:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                    del sys.modules[name]


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """Of warnings those of this program, without the line of the page."""
    from converter.errors import CloneWarning

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CloneWarning)
        warnings.showwarning = lambda message, kind, *_: print(f"{kind.__name__}: {message}", file=printed)
        yield printed


def _main(words: list[str]) -> int:
    from converter.cli import main

    former = sys.argv
    sys.argv = words
    try:
        main(words[1:])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = former
        gc.enable()  # the program switches it off, for it ends soon
    return 0


def _parse(line: str) -> None:
    """Whether the options of a command that is not run exist."""
    words = shlex.split(line, comments=True)
    if not words or words[0] not in ("convert", "converter"):
        return
    from converter.cli import program

    name, *rest = words[1:] if words[1] in program.commands else ["convert", *words[1:]]
    program.commands[name].make_context(name, rest)  # raises click.UsageError


def _kept(shown: str, printed: str) -> str:
    """What is printed; or what is shown, where that leaves out lines."""
    if f"{_ELLIPSIS}\n" in shown:
        parts = (re.escape(part) for part in re.split(rf"(?m)^{_ELLIPSIS}\n", shown))
        if re.fullmatch("(?:.*\n)*".join(parts), printed):
            return shown
    return printed


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        page.write_text(current(page.read_text()))
        print(page.relative_to(ROOT))
