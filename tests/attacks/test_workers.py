"""Workers that answer with something else than they were asked for: an error, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.core.arithmetic import Lost
from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.execution import shards
from converter.execution.shards import Done, ShardTask
from converter.formats import by_name, open_writer

Answer = Callable[[ShardTask], object]


class Worker(Executor):
    """Answers at once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(self._answer(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def _of_another_length(task: ShardTask) -> Done:
    (task.folder / task.shard.name).write_bytes(b"short")
    return Done("there", task.nbytes)


def _linked(task: ShardTask) -> Done:
    """A link for a shard, to a file of the machine that would get the name of the output."""
    (task.folder / task.shard.name).symlink_to("/etc/passwd")
    return Done("there", task.nbytes)


def _raising(task: ShardTask) -> Done:
    raise MemoryError("\x1b[31m")


def _garbage(task: ShardTask) -> Done:
    """Of the size that the worker tells, and of no other."""
    (task.folder / task.shard.name).write_bytes(b"\x7fELF" * 5)
    return Done("there", 20)


def _other_tensors(task: ShardTask, shape: tuple[int, ...] = (300, 200), name: str = "") -> Done:
    path = task.folder / task.shard.name
    specs = tuple(TensorSpec(name or spec.name, shape, spec.dtype) for spec in task.shard.contents.specs)
    with open_writer(by_name("safetensors"), path, Contents(specs)) as writer:
        for spec in specs:
            writer.write(spec.name, np.ones(spec.shape, np.float32))
    return Done("there", path.stat().st_size)


def _linked_to_a_right_one(task: ShardTask) -> Done:
    path = task.folder / task.shard.name
    _other_tensors(task, (200, 300))
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    return Done("there", path.stat().st_size)


HOSTILE: dict[str, Answer] = {
    "nothing": lambda task: None,
    "a text": lambda task: "done",
    "a size that is none": lambda task: Done("there", "all"),  # type: ignore[arg-type]
    "counts that are none": lambda task: Done("there", 1, Lost([1])),  # type: ignore[arg-type]
    "a host that is none": lambda task: Done(7, failure="no"),  # type: ignore[arg-type]
    "done without a file": lambda task: Done("there", task.nbytes, Lost()),
    "a short file": _of_another_length,
    "a link": _linked,
    "garbage": _garbage,
    "tensors of other shapes": _other_tensors,
    "tensors of other names": lambda task: _other_tensors(task, (200, 300), "z.weight"),
    "a link to a right one": _linked_to_a_right_one,
    "an error that a terminal obeys": _raising,
    "a failure that a terminal obeys": lambda task: Done("\x1b[2J", failure="\x1b]0;x\x07\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_worker_answers_is_checked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SEEN_WITHIN", 0.3)
    specs = tuple(TensorSpec(f"{layer}.weight", (200, 300), np.dtype("float32")) for layer in "abcd")
    with open_writer(by_name("safetensors"), tmp_path / "net.safetensors", Contents(specs)) as writer:
        for spec in specs:
            writer.write(spec.name, np.ones(spec.shape, np.float32))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(converter.ConversionError, match=r"the shard 'x-0000\d-of-") as raised:
        target = out / "x.safetensors.index.json"
        converter.convert(
            "torch->torch", tmp_path / "net.safetensors", target, max_shard_size="300KB", executor=Worker(HOSTILE[name])
        )
    assert str(raised.value).isprintable()
    assert not list(out.iterdir())
