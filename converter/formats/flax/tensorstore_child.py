"""What tensorstore is asked, in its own process: see `formats.io.child`. The key-value stores are its JSON specs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore as ts

from converter.core.tensors import DTYPES
from converter.formats.io.child import Answers


def _context() -> Any:
    # what each thread of tensorstore frees stays with it: one that reads is enough, and takes a quarter less memory
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_concurrency": {"limit": 1}})


def _texts(store: dict[str, Any], keys: list[str]) -> Iterator[bytes]:
    """The value of each key; nothing for one that is not there."""
    database = ts.KvStore.open(store, context=_context()).result()
    for future in [database.read(key) for key in keys]:
        result = future.result()
        yield bytes(result.value) if result.state == "value" else b""


def _array(driver: str, store: dict[str, Any], shape: list[int], dtype: str, least_keys: int) -> Iterator[memoryview]:
    """The elements in C order. least_keys: so many has the store if no chunk is missing."""
    context = _context()
    if least_keys:
        keys = len(ts.KvStore.open(store, context=context).result().list().result())
        if keys < least_keys:
            raise ValueError(f"{least_keys - keys} chunks are missing")
    spec = {"driver": driver, "kvstore": store}
    opened = ts.open(spec, open=True, read=True, context=context).result()
    if tuple(opened.shape) != tuple(shape) or opened.dtype.numpy_dtype != DTYPES[dtype]:
        raise ValueError("was changed while it was read")
    values = np.ascontiguousarray(opened.read(order="C").result())
    yield values.reshape(-1).view(np.uint8).data


ANSWERS: Answers = {"texts": _texts, "array": _array}
