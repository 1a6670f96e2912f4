"""Sharded sources, tasks and workers that fail in chosen ways: what the tests of shards and of Dask share."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from logging import CRITICAL
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, TimeoutError

from converter.core.tensors import Array
from converter.errors import FormatError
from converter.execution.shards import Done, ShardTask
from converter.formats.safetensors import file as safetensors

LIMIT = "1MB"  # so that there are about six shards


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def processes(count: int) -> ProcessPoolExecutor:
    """Not forked: the cluster's client has threads in this process."""
    return ProcessPoolExecutor(count, get_context("spawn"))


@dataclass
class Broken(Executor):
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


# -- readers that fail; workers unpickle them by their names here


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


# -- clusters


def local_cluster(workers: int, **options: Any) -> LocalCluster:
    """A silent cluster on this machine. A task whose workers died twice is given up."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        return LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=CRITICAL + 1, **options
        )


class TwoWorkers:
    """A cluster of two worker processes, made anew where the workers of the last one did not come back."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._client: Client | None = None

    def client(self) -> Client:
        if self._client is not None:
            try:
                self._client.wait_for_workers(2, timeout=20)
                return self._client
            except TimeoutError:
                self.close()
        cluster = self._stack.enter_context(local_cluster(2))
        self._client = self._stack.enter_context(Client(cluster, set_as_default=False))
        return self._client

    def close(self) -> None:
        self._client = None
        self._stack.close()


def address(client: Client) -> str:
    return str(client.scheduler_info()["address"])
