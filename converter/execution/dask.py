"""The workers of a Dask cluster as an executor. The scheduler gives the task of a worker that died to another one."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from converter._version import __version__
from converter.errors import ConversionError, MissingLibraryError

__all__ = ["dask_executor"]

#: Seconds for the scheduler to answer.
ANSWER_WITHIN = 10
#: Of a worker this gives the version of this package, and needs nothing of it there to be called.
_VERSION = "converter._version:__version__"


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
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
    with client:
        _refuse_workers(address, client)
        yield client.get_executor(pure=False)


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
