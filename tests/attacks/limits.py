"""Running the command line on a file that was made to do harm: in a process of its own, measured and limited."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.attacks import measured
from tests.places import ROOT

#: The file to which each run adds what it took, for the page; see `page`.
LOG = "ATTACKS_LOG"
#: What SECURITY.md promises of any file.
MOST_SECONDS, MOST_BYTES = 20, 500_000_000


@dataclass(frozen=True)
class Outcome:
    """What a command did. code: negative for the signal that ended it. seconds: of processor time, that of its children
    too. peak: bytes of resident memory, of it or of its largest child."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int


def converter(*words: object, cwd: Path) -> Outcome:
    """Run ``converter WORDS`` in the folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", measured.__name__, str(report), *map(str, words)]
        path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": folder}
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=path,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=10 * MOST_SECONDS,
        )
        took = json.loads(report.read_text()) if report.exists() else {"seconds": 0.0, "peak": 0}
    outcome = Outcome(done.returncode, done.stdout.decode(), done.stderr.decode(), took["seconds"], took["peak"])
    if LOG in os.environ:
        test = os.environ["PYTEST_CURRENT_TEST"].removesuffix(" (call)")
        with Path(os.environ[LOG]).open("a") as log:
            log.write(json.dumps([test, outcome.seconds, outcome.peak]) + "\n")
    return outcome


def harmless(*words: object, cwd: Path, code: int | None = None) -> Outcome:
    """The same, for a command that has to end by itself, in time, in memory, and without a traceback.

    code: the expected exit code; by default 0 or 1.
    """
    outcome = converter(*words, cwd=cwd)
    assert outcome.code in ((0, 1) if code is None else (code,)), outcome
    assert "Traceback" not in outcome.err, outcome.err
    assert outcome.seconds < MOST_SECONDS, f"{outcome.seconds:.1f} s"
    assert 0 < outcome.peak < MOST_BYTES, f"{outcome.peak / 1e6:.0f} MB"
    return outcome


def refused(*words: object, cwd: Path) -> str:
    """The same, for a command that has to be refused: what it says."""
    outcome = harmless(*words, cwd=cwd, code=1)
    assert outcome.err.startswith("error: "), outcome.err
    return outcome.err
