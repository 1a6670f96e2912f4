"""Shards as tasks for threads, processes and a Dask cluster: the bytes of one machine, dead workers, clear errors."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import dask
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from msgspec.structs import replace

from converter.commands.convert import convert
from converter.core.tensors import Array
from converter.endpoints.readers import LiveReader
from converter.errors import ConversionError, FormatError, MissingLibraryError
from converter.execution import dask as dask_cluster
from converter.execution import shards as shard_tasks
from converter.execution.dask import dask_executor
from converter.execution.shards import Done, ShardTask, write_shard
from converter.formats.safetensors import file as safetensors
from converter.live import open_net
from tests.command import ok, refused

LIMIT = "1MB"  # so that there are about six shards


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    shapes = {f"blocks.{i}.dense.weight": (300 + i, 500 - i) for i in range(8)}
    shapes |= {f"blocks.{i}.dense.bias": (300 + i,) for i in range(8)}
    path = tmp_path_factory.mktemp("source") / "source.pt"
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def neutral(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neutral") / "source.safetensors"
    convert("torch->neutral", source, path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """Two workers, each a process. A task whose workers died twice is given up."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        made = LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL + 1
        )
    with made, Client(made, set_as_default=False) as client:
        yield client
        client.wait_for_workers(2)


def address(cluster: Client) -> str:
    return str(cluster.scheduler_info()["address"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


# -- the same bytes --------------------------------------------------------------------------------------------------


def processes(count: int) -> ProcessPoolExecutor:
    """Not forked: the cluster's client has threads in this process."""
    return ProcessPoolExecutor(count, get_context("spawn"))


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
    source: Path, tmp_path: Path, executor: Executor, target: str, name: str
) -> None:
    seen: list[tuple[int, int]] = []
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    convert(f"torch->{target}", source, one / name, max_shard_size=LIMIT)
    progress = lambda *call: seen.append(call)  # noqa: E731
    convert(f"torch->{target}", source, many / name, max_shard_size=LIMIT, executor=executor, progress=progress)
    assert files(many) == files(one) and len(files(one)) > 5
    assert list(many.glob(".*")) == []
    assert (
        len(seen) == len(files(one)) - 1 and seen[-1][0] == seen[-1][1] == sum(seen[0][:1]) + seen[-1][0] - seen[0][0]
    )


def test_a_former_result_is_replaced_only_by_the_whole_new_one(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    convert("torch->neutral", source, out, max_shard_size=LIMIT)
    before = files(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(ConversionError, match="exists already"):
            convert("torch->neutral", source, out, max_shard_size=LIMIT, executor=pool)
        with pytest.raises(ConversionError, match="stopped by the test"):
            failing = Broken(pool, after=3)
            convert("torch->neutral", source, out, max_shard_size=LIMIT, executor=failing, force=True)
        assert files(tmp_path) == before
        convert("torch->neutral", source, out, max_shard_size=LIMIT, executor=pool, force=True)
    assert files(tmp_path) == before


@dataclass
class Broken(Executor):  # type: ignore[misc]
    """Does the first tasks, and fails the next."""

    pool: Executor
    after: int

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.after -= 1
        return self.pool.submit(call if self.after >= 0 else fail, *args)


def fail(task: ShardTask) -> Done:
    raise RuntimeError("stopped by the test")


class Recorder(Executor):
    """Keeps the tasks; does each at once."""

    def __init__(self) -> None:
        self.tasks: list[ShardTask] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(args[0])
        future: Future[Any] = Future()
        future.set_result(call(*args))
        return future


def test_a_task_is_small_and_reads_only_the_source_files_of_its_shard(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = new(tmp_path / "source") / "s.safetensors"
    convert("torch->neutral", source, shards, max_shard_size=LIMIT)
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


# -- workers that die ------------------------------------------------------------------------------------------------


class Slow(safetensors.FileReader):
    """Reading takes long enough to be disturbed."""

    def read(self, name: str) -> Array:
        time.sleep(0.15)
        return super().read(name)


class Deadly(safetensors.FileReader):
    """Kills who reads."""

    def read(self, name: str) -> Array:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Damaged(safetensors.FileReader):
    """One tensor cannot be read, as long as the file ``damaged`` lies beside the source."""

    def read(self, name: str) -> Array:
        if name == "blocks.4.dense.weight" and self.path.with_name("damaged").exists():
            raise FormatError(self.path, f"'{name}' is damaged")
        return super().read(name)


def kill_one_that_works(cluster: Client, folder: Path, killed: list[int]) -> None:
    """As soon as it has a part of a shard."""
    pids = cluster.run(os.getpid)
    deadline = time.monotonic() + 30
    while not killed and time.monotonic() < deadline:
        busy = [worker for worker, tasks in cluster.processing().items() if tasks]
        if busy and any(file.stat().st_size for file in folder.glob(".*/.*.partial")):
            os.kill(pids[busy[0]], signal.SIGKILL)
            killed.append(pids[busy[0]])
        time.sleep(0.05)


def test_a_worker_that_is_killed_in_mid_shard_is_replaced(
    neutral: Path, tmp_path: Path, cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    convert("neutral->torch", neutral, one / "x.pt", max_shard_size=LIMIT)
    monkeypatch.setattr(safetensors, "FileReader", Slow)
    killed: list[int] = []
    killer = Thread(target=kill_one_that_works, args=(cluster, many, killed))
    killer.start()
    convert("neutral->torch", neutral, many / "x.pt", max_shard_size=LIMIT, executor=cluster.get_executor(pure=False))
    killer.join()
    assert killed and killed[0] not in cluster.run(os.getpid).values()
    assert files(many) == files(one)
    cluster.wait_for_workers(2)


def test_a_task_that_kills_every_worker_ends_in_one_error(
    neutral: Path, tmp_path: Path, cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "FileReader", Deadly)
    workers = cluster.get_executor(pure=False)
    with pytest.raises(ConversionError, match=r"the shard 'x-0000\d-of-0000\d\.bin' was not written: KilledWorker: "):
        convert("neutral->torch", neutral, tmp_path / "x.pt", max_shard_size=LIMIT, executor=workers)
    assert list(tmp_path.iterdir()) == []
    cluster.wait_for_workers(2)


def test_a_process_that_is_killed_breaks_its_pool(
    neutral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "FileReader", Deadly)
    with processes(1) as pool, pytest.raises(ConversionError, match="not written: BrokenProcessPool: "):
        convert("neutral->torch", neutral, tmp_path / "x.pt", max_shard_size=LIMIT, executor=pool)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_worker_is_the_users_and_leaves_nothing(
    neutral: Path, tmp_path: Path, cluster: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(neutral.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = new(tmp_path / "source") / "d.safetensors"
    damaged.write_bytes(data)
    out = new(tmp_path / "out") / "x.pt"
    options = ["-o", out, "--max-shard-size", LIMIT, "--dask", address(cluster)]
    said = refused(capsys, "neutral->torch", damaged, *options)
    assert said.count("\n") == 1 and said.startswith("error: the shard 'x-0000")
    assert "d.safetensors: the data of 'blocks." in said and "was changed" in said
    assert list(out.parent.iterdir()) == []


def test_complete_shards_are_kept_for_resume(
    neutral: Path, tmp_path: Path, cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = new(tmp_path / "source") / "source.safetensors"
    given.write_bytes(neutral.read_bytes())
    mark = given.with_name("damaged")
    mark.touch()
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    convert("neutral->torch", given, one / "x.pt", max_shard_size=LIMIT)
    monkeypatch.setattr(safetensors, "FileReader", Damaged)
    workers = cluster.get_executor(pure=False)
    output = many / "x.pt"
    with pytest.raises(ConversionError, match=r"'blocks\.4\.dense\.weight' is damaged"):
        convert("neutral->torch", given, output, max_shard_size=LIMIT, executor=workers, resume=True)
    kept = {file.name: file.stat().st_ino for file in many.glob(".x.bin.index.json.resume/*.bin")}
    assert 0 < len(kept) < len(files(one)) - 1
    mark.unlink()
    seen: list[tuple[int, int]] = []
    progress = lambda *call: seen.append(call)  # noqa: E731
    convert("neutral->torch", given, output, max_shard_size=LIMIT, executor=workers, resume=True, progress=progress)
    assert files(many) == files(one)
    assert len(seen) == len(files(one)) - 1 - len(kept)
    assert kept.items() <= {file.name: file.stat().st_ino for file in many.iterdir()}.items()


#: The command line, where reading takes long enough to be interrupted.
SLOW = """
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs in the background is born without it
    from converter import cli
    from converter.formats.safetensors import file as safetensors
    from tests.execution.test_shards import Slow
    safetensors.FileReader = Slow
    sys.argv[0] = "convert"
    cli.main(sys.argv[1:])
"""


def test_ctrl_c_stops_the_workers_and_leaves_nothing(neutral: Path, tmp_path: Path, cluster: Client) -> None:
    options = ["-o", str(tmp_path / "x.pt"), "--max-shard-size", LIMIT, "--dask", address(cluster)]
    command = [sys.executable, "-c", textwrap.dedent(SLOW), "neutral->torch", str(neutral), *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*/.*.partial")):
        assert time.monotonic() < deadline and child.poll() is None, child.communicate()
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGINT)
    printed, said = child.communicate(timeout=60)
    assert (child.returncode, printed, said) == (130, "", "interrupted; there is no output\n")
    assert list(tmp_path.iterdir()) == []


# -- what a user may get wrong ---------------------------------------------------------------------------------------


def test_the_command_line_with_a_cluster(
    source: Path, tmp_path: Path, cluster: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    alone = ok(capsys, "torch->neutral", source, "-o", one / "x.safetensors", "--max-shard-size", LIMIT)
    options = ["--max-shard-size", LIMIT, "--dask", address(cluster).removeprefix("tcp://")]
    together = ok(capsys, "torch->neutral", source, "-o", many / "x.safetensors", *options)
    assert together.replace("/many/", "/one/") == alone
    assert files(many) == files(one)


def test_a_scheduler_that_does_not_answer(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "ANSWER_WITHIN", 0.3)
    options = ["-o", tmp_path / "x.safetensors", "--max-shard-size", LIMIT]
    for wrong in ("127.0.0.1:1", "nonsense"):
        said = refused(capsys, "torch->neutral", source, *options, "--dask", wrong)
        assert f"no Dask scheduler answers at '{wrong}'" in said and "dask scheduler" in said


def test_a_scheduler_without_workers() -> None:
    made = LocalCluster(n_workers=0, processes=False, dashboard_address=":0", silence_logs=logging.CRITICAL + 1)
    with made, pytest.raises(ConversionError, match=r"has no workers\. Start some: dask worker "):
        with dask_executor(made.scheduler_address):
            raise AssertionError


def test_workers_of_another_version(cluster: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "__version__", "0.0.1")
    with pytest.raises(ConversionError, match=r"2 of 2 workers do not have the version 0\.0\.1 .* has version "):
        with dask_executor(address(cluster)):
            raise AssertionError
    monkeypatch.setattr(dask_cluster, "_VERSION", "no_such_package:__version__")
    with pytest.raises(ConversionError, match="cannot import weights-converter"):
        with dask_executor(address(cluster)):
            raise AssertionError


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'weights-converter\[distributed\]'"):
        with dask_executor("127.0.0.1:8786"):
            raise AssertionError


def test_one_file_is_not_for_many_machines(source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        for name, limit in (("x.msgpack", None), ("x.orbax", LIMIT)):
            with pytest.raises(ConversionError, match="Only shards can be written by many machines"):
                convert("torch->flax", source, tmp_path / name, max_shard_size=limit, executor=pool)
    assert list(tmp_path.iterdir()) == []


def test_a_live_net_is_in_one_process_only() -> None:
    with pytest.raises(ConversionError, match="'Linear' is a net in the memory of this process"):
        LiveReader(open_net(torch.nn.Linear(2, 3))).opening  # noqa: B018


@pytest.fixture
def task(source: Path, tmp_path: Path) -> ShardTask:
    """One that can be done again."""
    recorder = Recorder()
    given = new(tmp_path / "source") / "source.pt"
    given.write_bytes(source.read_bytes())
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


def test_a_shard_that_is_not_seen_here(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_tasks, "SEEN_WITHIN", 0.1)

    class Elsewhere(Recorder):
        def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda task: Done("far", 7), *args)

    with pytest.raises(ConversionError, match=r"was written by far, but it is not in .* that all machines share"):
        convert("torch->neutral", source, tmp_path / "x.safetensors", max_shard_size=LIMIT, executor=Elsewhere())
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
    assert report.overflowed == {f"l{i}.weight": 150_000 for i in range(4)}
    assert np.isinf(torch.load(tmp_path / "x-00001-of-00002.bin")["l0.weight"].numpy()).all()
