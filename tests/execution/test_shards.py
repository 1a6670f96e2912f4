"""Shards as tasks for threads, processes and a Dask cluster: the bytes of one machine, clear errors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from converter.commands.convert import convert
from converter.endpoints.readers import LiveReader
from converter.errors import ConversionError
from converter.execution import shards as shard_tasks
from converter.execution.shards import Done, ShardTask, write_shard
from converter.formats.safetensors import file as safetensors
from converter.live import open_net
from tests.execution.sharding import LIMIT, Broken, Deadly, Recorder, files, new, processes

pytestmark = pytest.mark.xdist_group("cluster")

# -- the same bytes --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["threads", "processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "dask":
        yield request.getfixturevalue("cluster").get_executor(pure=False)
    else:
        with ThreadPoolExecutor(2) if request.param == "threads" else processes(2) as pool:
            yield pool


@pytest.mark.parametrize(
    ("target", "name"), [("neutral", "x.safetensors"), ("torch", "x.pt"), ("flax", "x.safetensors")]
)
def test_the_result_is_that_of_one_machine(
    sharded_source: Path, tmp_path: Path, executor: Executor, target: str, name: str
) -> None:
    seen: list[tuple[int, int]] = []
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    convert(f"torch->{target}", sharded_source, one / name, max_shard_size=LIMIT)
    progress = lambda *call: seen.append(call)  # noqa: E731
    convert(f"torch->{target}", sharded_source, many / name, max_shard_size=LIMIT, executor=executor, progress=progress)
    assert files(many) == files(one) and len(files(one)) > 5
    assert list(many.glob(".*")) == []
    assert (
        len(seen) == len(files(one)) - 1 and seen[-1][0] == seen[-1][1] == sum(seen[0][:1]) + seen[-1][0] - seen[0][0]
    )


def test_a_former_result_is_replaced_only_by_the_whole_new_one(sharded_source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    convert("torch->neutral", sharded_source, out, max_shard_size=LIMIT)
    before = files(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ConversionError, match="exists already"):
            convert("torch->neutral", sharded_source, out, max_shard_size=LIMIT, executor=pool)
        with pytest.raises(ConversionError, match="stopped by the test"):
            failing = Broken(pool, after=3)
            convert("torch->neutral", sharded_source, out, max_shard_size=LIMIT, executor=failing, force=True)
        assert files(tmp_path) == before
        convert("torch->neutral", sharded_source, out, max_shard_size=LIMIT, executor=pool, force=True)
    assert files(tmp_path) == before


def test_a_task_is_small_and_reads_only_the_source_files_of_its_shard(
    sharded_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = new(tmp_path / "source") / "s.safetensors"
    convert("torch->neutral", sharded_source, shards, max_shard_size=LIMIT)
    opened: list[str] = []

    class Counted(safetensors.FileReader):
        def __init__(self, path: Path, *options: Any) -> None:
            opened.append(path.name)
            super().__init__(path, *options)

    recorder = Recorder()
    index = shards.with_name("s.safetensors.index.json")
    convert("neutral->torch", index, tmp_path / "x.pt", max_shard_size=LIMIT, executor=recorder)
    assert len(recorder.tasks) > 5
    monkeypatch.setattr(safetensors, "FileReader", Counted)
    for task in recorder.tasks:
        assert len(pickle.dumps(task)) < 20_000
        opened.clear()
        again = replace(task, folder=new(tmp_path / f"again-{task.shard.name}"), running=index)
        assert write_shard(again).failure == ""
        assert len(opened) <= 2  # of eight files
        assert (again.folder / task.shard.name).read_bytes() == (tmp_path / task.shard.name).read_bytes()


def test_a_process_that_is_killed_breaks_its_pool(
    neutral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "FileReader", Deadly)
    with processes(1) as pool, pytest.raises(ConversionError, match="not written: BrokenProcessPool: "):
        convert("neutral->torch", neutral, tmp_path / "x.pt", max_shard_size=LIMIT, executor=pool)
    assert list(tmp_path.iterdir()) == []


def test_one_file_is_not_for_many_machines(sharded_source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        for name, limit in (("x.msgpack", None), ("x.orbax", LIMIT)):
            with pytest.raises(ConversionError, match="Only shards can be written by many machines"):
                convert("torch->flax", sharded_source, tmp_path / name, max_shard_size=limit, executor=pool)
    assert list(tmp_path.iterdir()) == []


def test_a_live_net_is_in_one_process_only() -> None:
    with pytest.raises(ConversionError, match="'Linear' is a net in the memory of this process"):
        LiveReader(open_net(torch.nn.Linear(2, 3))).opening  # noqa: B018


@pytest.fixture
def task(sharded_source: Path, tmp_path: Path) -> ShardTask:
    """One that can be done again."""
    recorder = Recorder()
    given = new(tmp_path / "source") / "source.pt"
    given.write_bytes(sharded_source.read_bytes())
    convert("torch->neutral", given, tmp_path / "x.safetensors", max_shard_size=LIMIT, executor=recorder)
    folder = new(tmp_path / "again")
    (folder / "running").touch()
    task = replace(recorder.tasks[0], folder=folder, running=folder / "running")
    assert write_shard(task).failure == ""
    (folder / task.shard.name).unlink()
    return task


def test_a_worker_of_another_version(task: ShardTask) -> None:
    failure = write_shard(replace(task, version="0.0.1")).failure
    assert "the plan was made by 0.0.1" in failure and "Install the same version on all machines" in failure


def test_a_folder_that_a_worker_does_not_share(task: ShardTask) -> None:
    failure = write_shard(replace(task, running=task.running.with_name("elsewhere"))).failure
    assert "is not that of the machine which planned" in failure and "in a folder that all machines share" in failure


def test_a_source_that_a_worker_does_not_share(task: ShardTask) -> None:
    path = task.opening.path
    os.utime(path, (1, 1))
    assert "was changed since the plan was made, or is another file on this machine" in write_shard(task).failure
    path.unlink()
    assert "source.pt: " in write_shard(task).failure


def test_a_source_of_other_tensors(task: ShardTask) -> None:
    first, *rest = task.steps
    spec = replace(first.sources[0], shape=(3, 5))
    changed = replace(task, steps=(replace(first, sources=(spec,)), *rest))
    assert "holds other tensors than where the plan was made" in write_shard(changed).failure


def test_a_source_that_changes_meanwhile(task: ShardTask) -> None:
    state = torch.load(task.opening.path, weights_only=True)

    class Changing(Recorder):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(call, *args)
            torch.save({name: tensor + 1 for name, tensor in state.items()}, task.opening.path)
            return future

    out = new(task.folder / "out") / "x.safetensors"
    with pytest.raises(
        ConversionError, match=r"'x-0000\d-of-0000\d.safetensors' .*was changed since the plan was made"
    ):
        convert("torch->neutral", task.opening.path, out, max_shard_size=LIMIT, executor=Changing())
    assert list(out.parent.iterdir()) == []


def test_a_shard_that_is_not_seen_here(sharded_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_tasks, "SEEN_WITHIN", 0.1)

    class Elsewhere(Recorder):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda task: Done("far", 7), *args)

    with pytest.raises(ConversionError, match=r"was written by far, but it is not in .* that all machines share"):
        convert(
            "torch->neutral", sharded_source, tmp_path / "x.safetensors", max_shard_size=LIMIT, executor=Elsewhere()
        )
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_nobody_waits_for_stops(task: ShardTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_tasks, "LOOK_EVERY", 0.0)
    fill = shard_tasks.fill

    def unwanted(*args: Any) -> Any:
        task.running.unlink()
        return fill(*args)

    monkeypatch.setattr(shard_tasks, "fill", unwanted)
    assert write_shard(task).failure == "it is no longer wanted"
    assert list(task.folder.iterdir()) == []


def test_values_that_become_infinite_are_counted_by_all(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    torch.save({f"l{i}.weight": torch.full((300, 500), 1e6) for i in range(4)}, path)
    with ThreadPoolExecutor(2) as pool:
        report = convert("torch->torch", path, tmp_path / "x.pt", max_shard_size=LIMIT, executor=pool, dtype="float16")
    assert report.lost.infinite == {f"l{i}.weight": 150_000 for i in range(4)}
    assert np.isinf(torch.load(tmp_path / "x-00001-of-00002.bin")["l0.weight"].numpy()).all()
