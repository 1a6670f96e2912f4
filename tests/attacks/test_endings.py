"""Runs that are cut short: the source is cut while it is read, the program is told to end, a stream is closed."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.formats import by_name, open_writer
from tests.places import ROOT, SAMPLES

#: The command line, which does something before the tensor of this number is read (or, for -1, when it has started).
RUN = """
import os, signal, sys, threading
from converter.execution import jobs
from converter.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
done = [0]
class Reading(jobs._Work):
    def __init__(self, reader, *rest):
        super().__init__(reader, *rest)
        def before(read):
            def reading(name):
                done[0] += 1
                if done[0] == {number}:
                    {what}
                array = read(name)
                if done[0] == {number}:
                    {after}
                return array
            return reading
        self._read, self._raw = before(self._read), before(self._raw)
jobs._Work = Reading
main(sys.argv[1:])
"""
FORMATS = ["safetensors", "torch", "torch-legacy", "npz", "npy", "flax-msgpack", "mxnet", "tf-checkpoint", "orbax"]

TARGETS = ["x.safetensors", "x.npz", "x.weights.h5", "x.ckpt", "x.orbax", "x.safetensors.index.json"]


def net(path: Path, form: str) -> Path:
    """Four tensors of 4 MB, large enough to be mapped, and of different sizes, so that their order need not be told."""
    names = [str(number) for number in range(4)] if form == "npy" else [f"{layer}.weight" for layer in "abcd"]
    specs = tuple(TensorSpec(name, (1000 + row, 1000), np.dtype("float32")) for row, name in enumerate(names))
    random = np.random.default_rng(3)
    with open_writer(by_name(form), path, Contents(specs, "list" if form == "npy" else "dict")) as writer:
        for spec in specs:
            writer.write(spec.name, random.normal(size=spec.shape).astype(spec.dtype))
    return path


def run(
    tmp_path: Path, *words: object, number: int = 2, what: str = "pass", after: str = "pass", **streams: int
) -> tuple[int, str]:
    code = RUN.format(number=number, what=what, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=streams.get("stdout", subprocess.PIPE),
        stderr=streams.get("stderr", subprocess.PIPE),
        timeout=100,
    )
    return done.returncode, (done.stderr or b"").decode()


@contextmanager
def hangups(handler: signal.Handlers) -> Iterator[None]:
    """What the processes that are started inside do when the terminal is closed."""
    former = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, former)


def cut(source: Path) -> str:
    """Python that leaves a third of each large file of the source."""
    big = [str(file) for file in source.parent.rglob("*") if file.is_file() and file.stat().st_size > 1 << 20]
    return f"[os.truncate(file, os.path.getsize(file) // 3) for file in {big}]"


@pytest.mark.parametrize(
    ("form", "moment"), [*((form, "what") for form in FORMATS), *((form, "after") for form in FORMATS[:3])]
)
def test_a_source_that_is_cut_while_it_is_read(tmp_path: Path, form: str, moment: str) -> None:
    """Before a tensor is read, and when it is read but not yet written: then what was read may be all."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    source = net(tmp_path / "in" / "net", form)
    framework = {"flax-msgpack": "flax", "mxnet": "mxnet", "tf-checkpoint": "tensorflow", "orbax": "flax"}.get(
        form, "torch"
    )
    words = (f"{framework}->{framework}", source, "-o", "out/x.npz", "--workers", 1)
    code, said = run(tmp_path, *words, number=1 if form == "npy" else 2, **{moment: cut(source)})
    assert code == 1, (code, said)
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert not list((tmp_path / "out").iterdir())


#: The command line, which cuts its source short when something in it is parsed for the first time.
PARSING = """
import os, sys
from converter.formats.pickle.machine import Machine
from converter.formats.tensorflow import saved_model
from converter.cli import main
def cutting(parse):
    def once(*given):
        os.truncate({file!r}, {size})
        return parse(*given)
    return once
Machine.find, saved_model.Message = cutting(Machine.find), cutting(saved_model.Message)
main(sys.argv[1:])
"""


def _parsed(folder: Path, form: str) -> Path:
    """A file of much to be parsed, which is read by what the name of its form says."""
    random = np.random.default_rng(3)
    tensors = {f"layer{number}.weight": random.normal(size=(2, 3)).astype(np.float32) for number in range(4000)}
    path = folder / "net"
    if form.startswith("torch"):
        with open_writer(
            by_name(form), path, Contents(tuple(TensorSpec(n, (2, 3), np.dtype("f4")) for n in tensors))
        ) as w:
            for name, array in tensors.items():
                w.write(name, array)
    elif form == "npy":
        np.save(folder / "net.npy", tensors)  # type: ignore[arg-type]
        path = folder / "net.npy"
    else:
        path.write_bytes(pickle.dumps(tensors))
    return path


@pytest.mark.parametrize("form", ["torch", "torch-legacy", "npy", "pickle"])
def test_a_source_that_is_cut_while_it_is_parsed(tmp_path: Path, form: str) -> None:
    source = _parsed(tmp_path, form)
    code = PARSING.format(file=str(source), size=1 << 12)
    command = [sys.executable, "-c", code, "inspect", str(source)]
    done = subprocess.run(command, check=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1, done.stderr
    assert b"became shorter while it was read" in done.stderr


def test_a_graph_that_is_cut_while_it_is_parsed(tmp_path: Path) -> None:
    """What it says is known before: the version of the program that wrote it."""
    graph = next(SAMPLES.glob("**/saved_model.pb"))
    shutil.copytree(graph.parent, tmp_path / "saved")
    code = PARSING.format(file=str(tmp_path / "saved" / graph.name), size=0)
    command = [sys.executable, "-c", code, "inspect", "saved"]
    done = subprocess.run(command, check=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_a_small_array_of_a_pickle_that_is_cut(tmp_path: Path) -> None:
    from converter.errors import FormatError
    from converter.formats import open_reader

    source = tmp_path / "net.pkl"
    source.write_bytes(pickle.dumps({name: np.full((60, 40), 3.0) for name in "ab"}))
    _, reader = open_reader(source)
    with reader:
        os.truncate(source, 1 << 12)
        with pytest.raises(FormatError, match="became shorter while it was read"):
            reader.read("b")


def test_a_source_that_is_cut_before_it_is_mapped(tmp_path: Path) -> None:
    from converter.errors import FormatError
    from converter.formats import open_reader

    source = net(tmp_path / "net.safetensors", "safetensors")
    _, reader = open_reader(source)
    with reader:
        os.truncate(source, 1000)
        with pytest.raises(FormatError, match="became shorter while it was read"):
            reader.read("c.weight")


@pytest.mark.parametrize(
    ("name", "target"),
    [("SIGHUP", "x.pt"), ("SIGINT", "x.pt"), *(("SIGTERM", target) for target in TARGETS)],
)
def test_a_signal_leaves_nothing_behind(tmp_path: Path, name: str, target: str) -> None:
    net(tmp_path / "net.safetensors", "safetensors")
    framework = {"h5": "tensorflow", "ckpt": "tensorflow", "orbax": "flax"}.get(target.rpartition(".")[2], "torch")
    words = ("--max-shard-size", "5MB") if "index" in target else ("--kind", "*=linear")
    what = f"os.kill(os.getpid(), signal.{name})"
    with hangups(signal.SIG_DFL):  # also where the tests themselves run under nohup
        code, said = run(tmp_path, f"torch->{framework}", "net.safetensors", "-o", target, *words, what=what)
    assert code == 128 + getattr(signal, name), said
    assert said.endswith("; there is no output\n") and said.count("\n") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_signal_while_a_file_is_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    """Between the moment in which the hidden file is there and that in which a writer knows it."""
    net(tmp_path / "net.safetensors", "safetensors")
    code = RUN.format(number=-1, what="pass", after="pass").replace(
        "main(sys.argv[1:])",
        "import pathlib\nopened = pathlib.Path.open\n"
        "def opening(path, mode='r', *rest, **more):\n"
        "    file = opened(path, mode, *rest, **more)\n"
        "    if mode == 'xb':\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return file\n"
        "pathlib.Path.open = opening\nmain(sys.argv[1:])",
    )
    command = [sys.executable, "-c", code, "torch->torch", "net.safetensors", "-o", "x.pt"]
    done = subprocess.run(command, check=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 143
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup has it."""
    net(tmp_path / "net.safetensors", "safetensors")
    what = "os.kill(os.getpid(), signal.SIGHUP)"
    with hangups(signal.SIG_IGN):
        code, said = run(tmp_path, "torch->torch", "net.safetensors", "-o", "x.pt", what=what)
    assert code == 0, said
    assert (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", ">&- 2>&- <&-", "2> >(exit 0)"])
def test_a_closed_stream_does_not_end_the_run(tmp_path: Path, closed: str) -> None:
    source = net(tmp_path / "net.safetensors", "safetensors")
    command = f"{sys.executable} -m converter 'torch->torch' {source.name} -o x.npz {closed}"
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=100
    )
    assert done.returncode == 0
    stored = np.load(tmp_path / "x.npz")
    assert [stored[name].shape for name in stored] == [(1000 + row, 1000) for row in range(4)]
    # and an error is an exit code, where nobody hears it
    again = subprocess.run(
        ["bash", "-c", command], check=False, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, timeout=100
    )
    assert again.returncode == 1
