"""Shards by the workers of a Dask cluster: workers that die, workers and schedulers that are lost, clear errors."""

from __future__ import annotations

import logging.handlers
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest
from distributed import Client

from converter.commands.convert import convert
from converter.errors import ConversionError, MissingLibraryError
from converter.execution import dask as dask_cluster
from converter.execution import shards as shard_tasks
from converter.execution.dask import dask_executor
from converter.formats.safetensors import file as safetensors
from tests.command import ok, refused
from tests.execution.sharding import LIMIT, Damaged, Deadly, Slow, address, files, local_cluster, new, wait_until

pytestmark = pytest.mark.xdist_group("cluster")

# -- workers that die ------------------------------------------------------------------------------------------------


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


def test_a_task_that_kills_every_worker_ends_in_one_error(
    neutral: Path, tmp_path: Path, cluster: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "FileReader", Deadly)
    workers = cluster.get_executor(pure=False)
    with pytest.raises(ConversionError, match=r"the shard 'x-0000\d-of-0000\d\.bin' was not written: KilledWorker: "):
        convert("neutral->torch", neutral, tmp_path / "x.pt", max_shard_size=LIMIT, executor=workers)
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
    from tests.execution.sharding import Slow
    safetensors.FileReader = Slow
    sys.argv[0] = "convert"
    cli.main(sys.argv[1:])
"""


def test_ctrl_c_stops_the_workers_and_leaves_nothing(neutral: Path, tmp_path: Path, cluster: Client) -> None:
    options = ["-o", str(tmp_path / "x.pt"), "--max-shard-size", LIMIT, "--dask", address(cluster)]
    command = [sys.executable, "-c", textwrap.dedent(SLOW), "neutral->torch", str(neutral), *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: bool(list(tmp_path.glob(".*/.*.partial"))) or child.poll() is not None)
    os.kill(child.pid, signal.SIGINT)
    printed, said = child.communicate(timeout=120)
    assert (child.returncode, printed, said) == (130, "", "interrupted; there is no output\n")
    assert list(tmp_path.iterdir()) == []


def large(number: int) -> bytes:
    time.sleep(0.01 * number)
    return bytes(20_000_000)


def interrupted(cluster: Client, after: float) -> None:
    with dask_executor(address(cluster)) as workers:
        for number in range(30):
            workers.submit(large, number)
        time.sleep(after)
        raise KeyboardInterrupt


def test_results_on_their_way_when_a_run_ends_are_not_reported(cluster: Client) -> None:
    log, reported = logging.getLogger("tornado.application"), logging.handlers.QueueHandler(Queue())
    log.addHandler(reported)
    for after in (0, 0.05, 0.1, 0.15):
        with pytest.raises(KeyboardInterrupt):
            interrupted(cluster, after)
    log.removeHandler(reported)
    assert reported.queue.empty() and not log.disabled


def test_the_command_line_with_a_cluster(
    sharded_source: Path, tmp_path: Path, cluster: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = new(tmp_path / "one"), new(tmp_path / "many")
    alone = ok(capsys, "torch->neutral", sharded_source, "-o", one / "x.safetensors", "--max-shard-size", LIMIT)
    options = ["--max-shard-size", LIMIT, "--dask", address(cluster).removeprefix("tcp://")]
    together = ok(capsys, "torch->neutral", sharded_source, "-o", many / "x.safetensors", *options)
    assert together.replace("/many/", "/one/") == alone
    assert files(many) == files(one)


def test_a_scheduler_that_does_not_answer(
    sharded_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "ANSWER_WITHIN", 0.3)
    options = ["-o", tmp_path / "x.safetensors", "--max-shard-size", LIMIT]
    for wrong in ("127.0.0.1:1", "nonsense"):
        said = refused(capsys, "torch->neutral", sharded_source, *options, "--dask", wrong)
        assert f"no Dask scheduler answers at '{wrong}'" in said and "dask scheduler" in said


def test_a_scheduler_without_workers() -> None:
    made = local_cluster(0, processes=False)
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


# -- workers that are lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["workers", "scheduler"])
def test_a_cluster_that_is_lost_ends_in_one_error(
    lost: str, neutral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether no worker is left (every nanny gave up), or no scheduler: the wait is bounded."""
    monkeypatch.setattr(safetensors, "FileReader", Slow)
    monkeypatch.setattr(dask_cluster, "COME_BACK_WITHIN", 0.5)
    monkeypatch.setattr(dask_cluster, "ANSWER_WITHIN", 5)
    monkeypatch.setattr(shard_tasks, "LOOK_EVERY", 0.1)
    cluster = local_cluster(1)

    def lose() -> None:
        wait_until(lambda: bool(list(tmp_path.glob(".*/.*.partial"))))
        gone = cluster.workers[0] if lost == "workers" else cluster.scheduler
        cluster.sync(gone.close, callback_timeout=5)

    with cluster:
        loser = Thread(target=lose)
        loser.start()
        options = ["-o", tmp_path / "x.pt", "--max-shard-size", LIMIT, "--dask", cluster.scheduler_address]
        said = refused(capsys, "neutral->torch", neutral, *options)
        loser.join(30)
    assert said.count("\n") == 1
    assert ("has no workers any more" if lost == "workers" else "was not written") in said
    assert list(tmp_path.iterdir()) == []
