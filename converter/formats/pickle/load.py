"""Pickles read as data: a small machine with opcodes of its own, which never imports and never runs anything.

``load`` gives the object that a pickle (protocols 0 to 5) describes. A global of the pickle is looked up in a
table that the caller passes (`known`) and nowhere else:

    value, consumed = load(data, path, {**COLLECTION_GLOBALS, **NUMPY_GLOBALS, "my.module make": my_function})

Other parts: ``numpy.NUMPY_GLOBALS`` (arrays, dtypes, scalars), ``torch.torch_globals()`` (tensors
inside plain and NumPy pickles), ``nested.flatten`` (what was loaded, as names and leaves).

What the values are: None, bool, int, float, str, bytes (a read-only `memoryview` when longer than 4 KiB: nothing
is copied), list, tuple, dict, set, frozenset; whatever the functions of `known` return; `Global` for a global that
is only mentioned; `Opaque` for an instance of an unknown class, when `unknown` allows those.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.budget import Budget, Loan
from converter.formats.io.source import Parsed
from converter.formats.pickle.inert import inert_class
from converter.formats.pickle.machine import Machine
from converter.formats.pickle.opcodes import run
from converter.formats.pickle.values import (
    Global,
    Opaque,
    Ordered,
    PickleError,
    Shell,
    UnsafePickleError,
    has_simple_hash,
)

__all__ = ["COLLECTION_GLOBALS", "Global", "Opaque", "PickleError", "Shell", "inert_class", "load"]

#: The class that joblib writes before the bytes of an array; scikit-learn had a copy of it in ``sklearn.externals``.
_JOBLIB = "joblib.numpy_pickle NumpyArrayWrapper"


def load(
    data: bytes | memoryview | Parsed,
    path: Path,
    known: Mapping[str, Callable[..., object] | None],
    persistent: Callable[[object], object] | None = None,
    unknown: Callable[[str], Callable[..., object] | None] | None = None,
    passed: Callable[[], None] | None = None,
    loan: Loan | None = None,
) -> tuple[object, int]:
    """The object that the pickle at the start of ``data`` describes, and the number of bytes that it takes.

    known: "module name" of a global -> our own function to call instead; None for one that may only be
        mentioned (a dtype, a class as an argument).
    persistent: called with each persistent id (torch: the storages).
    unknown: called with "module name" of any other global; its result is used as in `known`
        (`inert_class` makes `Opaque` instances). Without it such a global is refused.
    passed: called now and then, when megabytes of ``data`` were read and need not stay in memory.
    loan: what pays for the objects, as long as they live; by default the budget of a file that stands alone.
    Raises UnsafeFileError, which names the global, or FormatError, which names the byte.
    """
    stored = data if isinstance(data, Parsed) else memoryview(data).cast("B")
    machine = Machine(stored, known, persistent, unknown, loan or Loan(Budget(path)), passed)
    collecting = gc.isenabled()
    gc.disable()  # it would look through all objects again and again, of which none is garbage
    try:
        value = run(machine)
        _refuse_joblib(machine, path)
        return value, machine.position
    except UnsafePickleError as error:
        raise UnsafeFileError(path, f"the pickle in it {error}. Nothing of it was run") from None
    except PickleError as error:
        _refuse_joblib(machine, path)
        raise FormatError(path, f"damaged pickle, at its byte {machine.start}: {error}") from None
    finally:
        if collecting:
            gc.enable()


def _refuse_joblib(machine: Machine, path: Path) -> None:
    """Raise FormatError for a pickle of joblib, which writes the bytes of an array between two opcodes.

    They could pass for opcodes, so what was read is not to be trusted, and the file is not damaged either.
    """
    if any(name.endswith(_JOBLIB) for name in machine.globals):
        next_step = "load it with joblib in a place that you trust, and save its arrays with numpy.savez"
        raise FormatError(
            path, f"a pickle of joblib, whose arrays stand outside of the pickle, is not read; {next_step}"
        )


def _plain(items: object) -> Collection[Any]:
    """Items that exist already; those of an array or a text would be made, one by one."""
    if not isinstance(items, (list, tuple, dict, set, frozenset)):
        raise PickleError(f"the items of a {type(items).__name__}")
    return items


def _have_simple_hashes(keys: Collection[object]) -> bool:
    """`has_simple_hash` of all of them; of texts and of small numbers without a call for each."""
    kinds = set(map(type, keys))
    if kinds <= {str, bytes, float}:
        return True
    if kinds == {int}:
        return all(has_simple_hash(key) for key in (min(keys), max(keys)))  # type: ignore[type-var]
    return all(map(has_simple_hash, keys))


def _pairs(items: object = ()) -> dict[object, object]:
    if not items:
        return {}
    pairs = items.items() if isinstance(items, dict) else _plain(items)
    if not _have_simple_hashes([key for key, _ in pairs]):
        raise PickleError("an unusual key of a dict")
    return dict(pairs)


def _members(items: object = ()) -> set[object]:
    if not _have_simple_hashes(_plain(items)):
        raise PickleError("an unusual member of a set")
    return set(_plain(items))


def _instance(kind: object, base: object = None, state: object = None) -> object:
    """``copyreg._reconstructor``: how protocols 0 and 1 make an instance."""
    if not isinstance(kind, Global) or kind.make is None:
        raise PickleError("an instance of something that is not a class")
    return kind.make() if state is None else kind.make(state)


def _complex(real: float = 0.0, imaginary: float = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _byte_string(text: object = "", encoding: object = "latin-1") -> bytes:
    """``_codecs.encode``: how protocols below 3 write bytes."""
    if isinstance(text, memoryview):  # a text of Python 2
        return text.tobytes()
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleError("bytes in an unusual encoding")
    return text.encode("latin-1")


def _plain_bytes(*args: object) -> bytes | memoryview:
    """``bytes()``: protocols below 3 write empty bytes so, and ``bytearray(b'...')``."""
    if not args:
        return b""
    return args[0] if isinstance(args[0], (bytes, memoryview)) else _byte_string(*args)


_BUILTINS: Mapping[str, Callable[..., object] | None] = {
    "set": _members,
    "frozenset": lambda items=(): frozenset(_members(items)),
    "dict": _pairs,
    "list": lambda items=(): list(_plain(items)),
    "tuple": lambda items=(): tuple(_plain(items)),
    "complex": _complex,
    "bytes": _plain_bytes,
    "bytearray": _plain_bytes,
    "object": lambda: Opaque("builtins object"),
    "int": None,
    "float": None,
    "bool": None,
    "str": None,
    "slice": lambda *args: Opaque("builtins slice", args),
    "range": lambda *args: Opaque("builtins range", args),
    "xrange": lambda *args: Opaque("builtins range", args),  # what protocol 2 calls it
    "type": lambda *args: Opaque("builtins type", args),
}

#: dict, list and set in all their spellings, complex numbers and bytes; `Counter` and
#: `defaultdict` are plain dicts here, `deque` a list.
COLLECTION_GLOBALS: Mapping[str, Callable[..., object] | None] = MappingProxyType(
    {f"{module} {name}": make for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()}
    | {
        "collections OrderedDict": lambda items=(): Ordered(_pairs(items)),
        "collections Counter": _pairs,
        "collections defaultdict": lambda factory=None, items=(): _pairs(items),
        "collections deque": lambda items=(), maximum=None: list(_plain(items)),
        "_codecs encode": _byte_string,
        "copy_reg _reconstructor": _instance,
        "copyreg _reconstructor": _instance,
    }
)
