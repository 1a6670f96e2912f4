"""Run the command line in this process, as a user's shell would."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from converter.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *args: object) -> Result:
    """The exit code and what was printed to stdout and stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    printed = capsys.readouterr()
    return Result(stop.value.code or 0 if isinstance(stop.value.code, int | None) else 1, printed.out, printed.err)


def ok(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """What a command printed that has to succeed."""
    result = run(capsys, *args)
    assert result.code == 0, result.err
    return result.out


def refused(capsys: pytest.CaptureFixture[str], *args: object, code: int = 1) -> str:
    """What a command that has to fail said, after checking that it is one clear message."""
    result = run(capsys, *args)
    assert result.code == code, result
    assert result.out == ""
    assert "Traceback" not in result.err
    return result.err
