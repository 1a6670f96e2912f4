"""`python -m tests.attacks` runs all attacks and writes docs/attacks.md."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.attacks.limits import LOG
from tests.attacks.page import PAGE, page


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        os.environ[LOG] = str(log)
        code = pytest.main(["-q", "-n", "0", str(Path(__file__).parent)])
        if not code:
            PAGE.write_text(page(log.read_text().splitlines()))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
