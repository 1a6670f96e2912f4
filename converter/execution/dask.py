"""The workers of a Dask cluster as an executor. The scheduler gives the task of a worker that died to another one."""

from __future__ import annotations

import logging
import pkgutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from converter._version import __version__
from converter.errors import ConversionError, MissingLibraryError
from converter.execution.shards import LosableExecutor

#: Seconds for the scheduler to answer.
ANSWER_WITHIN = 10
#: Seconds for workers, or the scheduler, to come back when all of them are gone.
COME_BACK_WITHIN = 60.0
#: Of a worker this gives the version of this package, and needs nothing of it there to be called.
_VERSION = "converter._version:__version__"


class Cluster(LosableExecutor):
    """The workers of a Dask client."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._workers = client.get_executor(pure=False)
        self._last_seen = time.monotonic()

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._workers.submit(call, *args, **kwargs)
        return future

    def why_lost(self) -> str:
        try:
            workers = self._client.sync(self._client.scheduler.ncores, callback_timeout=ANSWER_WITHIN)
            problem = "has no workers any more"
        except Exception:  # of whatever library the connection is made by
            workers, problem = {}, "does not answer any more"
        if workers:
            self._last_seen = time.monotonic()
        waited = time.monotonic() - self._last_seen
        return f"the Dask scheduler at '{self._address}' {problem}" if waited > COME_BACK_WITHIN else ""


@contextmanager
def dask_executor(address: str) -> Iterator[Cluster]:
    """The cluster whose scheduler is at ``host:port``, as long as the block lasts.

    When workers die under a task, Dask tries it on others (``distributed.scheduler.allowed-failures``, 3 times).
    Raises ConversionError when there is no such scheduler, when it has no workers, or when these have another version
    of this package, or none.
    """
    try:
        import distributed
    except ImportError:
        raise MissingLibraryError(
            "a Dask cluster needs dask.distributed: pip install 'weights-converter[distributed]'"
        ) from None
    open_client: Any = distributed.Client
    try:
        client = open_client(address, timeout=ANSWER_WITHIN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConversionError(
            f"no Dask scheduler answers at '{address}': {error}. Start one with 'dask scheduler', and workers with "
            "'dask worker ADDRESS'."
        ) from None
    try:
        _refuse_workers(address, client)
        yield Cluster(client, address)
    finally:
        _close(client)


def _close(client: Any) -> None:
    """Results that are still on their way were asked for by a run that has ended: that they are lost is no news."""
    log = logging.getLogger("tornado.application")
    before, log.disabled = log.disabled, True
    try:
        client.close()
    finally:
        log.disabled = before


def _refuse_workers(address: str, client: Any) -> None:
    found = client.run(pkgutil.resolve_name, _VERSION, on_error="return")
    if not found:
        raise ConversionError(f"the Dask scheduler at '{address}' has no workers. Start some: dask worker {address}")
    others = {worker: version for worker, version in found.items() if version != __version__}
    if others:
        worker, version = next(iter(others.items()))
        what = "cannot import weights-converter" if isinstance(version, Exception) else f"has version {version} of it"
        raise ConversionError(
            f"{len(others)} of {len(found)} workers do not have the version {__version__} of weights-converter that "
            f"plans: {worker} {what}. Install the same version on all machines."
        )
