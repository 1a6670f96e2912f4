"""Pickles are read as data: the same values as Python's own reader gives, and nothing is ever run."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import pickle
import pickletools
import random
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.errors import ConversionError, FormatError, UnsafeFileError
from converter.formats.io.budget import Budget, Loan
from converter.formats.pickle import nested
from converter.formats.pickle.load import COLLECTION_GLOBALS, Opaque, inert_class, load
from converter.formats.pickle.machine import STEP, Machine
from converter.formats.pickle.nested import Search, flatten, plain_children
from converter.formats.pickle.numpy import NUMPY_GLOBALS
from converter.formats.pickle.opcodes import OPCODES, run
from converter.formats.pickle.values import PickleError
from tests.formats.contract import random_array, same_bits

PATH = Path("some.pkl")
KNOWN = {**COLLECTION_GLOBALS, **NUMPY_GLOBALS}
PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


def value_of(data: bytes, **options: Any) -> Any:
    value, used = load(data, PATH, KNOWN, **options)
    assert used <= len(data)
    return value


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
    | st.complex_numbers(allow_nan=False)
)
KEYS = (
    st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none() | st.tuples(st.text(), st.integers(0, 9))
)
VALUES = st.recursive(
    SCALARS | st.sets(st.text()) | st.frozensets(st.integers(0, 99)),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL), st.binary(max_size=5))
def test_plain_values_are_what_python_reads(value: object, protocol: int, rest: bytes) -> None:
    data = pickle.dumps(value, protocol)
    found, used = load(data + rest, PATH, KNOWN)
    assert used == len(data) and found == value and type(found) is type(value)


@settings(max_examples=300, deadline=None)
@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL), st.data())
def test_damage_and_little_memory_end_in_a_value_or_an_error(
    value: object, protocol: int, choice: st.DataObject
) -> None:
    whole = pickle.dumps({"a": value, "b": [collections.OrderedDict(k=(1, 2)), 300, 70_000, (value,)]}, protocol)
    data = bytearray(whole)
    for _ in range(choice.draw(st.integers(0, 3), label="damaged bytes")):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.sampled_from([*sorted(OPCODES), 0, 255]))
    del data[choice.draw(st.integers(1, len(data)), label="cut") :]
    budget = Budget(PATH, choice.draw(st.just(2 * STEP) | st.integers(0, STEP + 2000), label="memory"))
    machine = Machine(memoryview(bytes(data)), KNOWN, lambda identity: ("storage", identity), inert_class, Loan(budget))
    try:
        run(machine)
        assert budget.spent <= budget.limit and 0 < machine.position <= len(data)
    except (PickleError, FormatError):
        assert 0 <= machine.start <= len(data)


@PROTOCOLS
def test_containers_of_the_standard_library(protocol: int) -> None:
    counted = collections.Counter("abca")
    ordered = collections.OrderedDict([("z", 1), ("a", 2)])
    by_default = collections.defaultdict(list, {"k": [1]})
    value = [ordered, counted, by_default, collections.deque([1, 2]), bytearray(b"ab"), b"", 3 + 4j]
    found = value_of(pickle.dumps(value, protocol))
    assert found == [ordered, counted, by_default, [1, 2], b"ab", b"", 3 + 4j]
    assert list(found[0]) == ["z", "a"]


@PROTOCOLS
def test_numpy_arrays_of_every_dtype(protocol: int) -> None:
    names = "bool int8 int64 uint16 float16 float32 float64 complex64 bfloat16 float8_e4m3fn float8_e5m2 int4".split()
    arrays = {name: random_array((3, 4), name, seed) for seed, name in enumerate(names)}
    arrays |= {"fortran": np.asfortranarray(arrays["float32"]), "0d": np.array(2.5), "empty": np.zeros((0, 3))}
    arrays |= {"large": random_array((50, 40), "float64"), "part": arrays["int64"][:, 1]}
    found = value_of(pickle.dumps(arrays, protocol))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert same_bits(found[name], np.asarray(array, order="C")), name
        assert not found[name].flags.writeable and found[name].flags.c_contiguous


@PROTOCOLS
def test_numpy_scalars_and_byte_orders(protocol: int) -> None:
    value = [np.float32(1.5), np.int64(-7), ml_dtypes.bfloat16(2.5), np.arange(5, dtype=">i4"), np.bool_(True)]
    found = value_of(pickle.dumps(value, protocol))
    assert [array.tolist() for array in found] == [1.5, -7, 2.5, [0, 1, 2, 3, 4], True]
    assert [array.shape for array in found] == [(), (), (), (5,), ()] and found[3].dtype == np.dtype("int32")


def test_large_arrays_are_not_copied() -> None:
    data = pickle.dumps(np.zeros(1 << 20, np.uint8), 5)
    array = value_of(data)
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


@PROTOCOLS
def test_arrays_of_objects_are_containers(protocol: int) -> None:
    box = np.empty((), object)
    box[()] = {"w": np.ones(2), "more": [np.zeros(1), 5]}
    uneven = np.empty(2, object)
    uneven[:] = [np.ones(2), np.ones(3)]
    found = flatten(value_of(pickle.dumps(box, protocol)), PATH).kept
    assert [entry.name for entry in found] == ["w", "more/0"]
    found = flatten(value_of(pickle.dumps(uneven, protocol)), PATH).kept
    assert [(entry.name, entry.value.shape) for entry in found] == [("0", (2,)), ("1", (3,))]  # type: ignore[attr-defined]


def test_arrays_that_are_no_numbers_are_opaque() -> None:
    value = [np.array(["text"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, [("a", "f4")])]
    assert all(isinstance(item, Opaque) for item in value_of(pickle.dumps(value)))


class Thing:
    def __init__(self, **attributes: object) -> None:
        self.__dict__ |= attributes


@PROTOCOLS
def test_instances_of_unknown_classes_are_opaque(protocol: int) -> None:
    name = f"{Thing.__module__} Thing"
    found = value_of(pickle.dumps(Thing(w=np.ones(2), n=3), protocol), unknown=inert_class)
    assert isinstance(found, Opaque) and found.name == name
    assert found.attributes["n"] == 3 and same_bits(found.attributes["w"], np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(UnsafeFileError, match="Thing"):
        value_of(pickle.dumps(Thing(), protocol))


class Call:
    def __init__(self, function: object, *args: object) -> None:
        self.parts = (function, args)

    def __reduce__(self) -> Any:
        return self.parts


@PROTOCOLS
@pytest.mark.parametrize("lenient", [False, True])
def test_calls_are_refused(tmp_path: Path, protocol: int, lenient: bool) -> None:
    victim = tmp_path / "PWNED"
    options = {"unknown": inert_class} if lenient else {}
    calls = [
        Call(os.system, f"touch {victim}"),
        Call(eval, f"open({str(victim)!r}, 'w')"),
        Call(open, str(victim), "w"),
        Call(getattr, "x", "upper"),
        Call(__import__, "os"),
        Call(np.load, "x"),
        Call(os.PathLike),
        Call(functools.partial, os.system, f"touch {victim}"),
        Call(functools.partial, print),
    ]
    for call in calls:
        for value in (call, [call], {"w": np.ones(2), "x": {"y": call}}):
            with pytest.raises(UnsafeFileError, match="Nothing of it was run"):
                value_of(pickle.dumps(value, protocol), **options)
    assert not victim.exists()


def test_attributes_that_are_reached_in_steps() -> None:
    """Each step is inert, and its result cannot be called."""
    start = b"\x80\x02c__builtin__\ngetattr\n"
    thing = b"cmodule\nThing\n)\x81"
    method = start + b"(" + thing + b"X\x06\x00\x00\x00methodtR"
    found = value_of(method + b".", unknown=inert_class)
    assert isinstance(found, Opaque) and found.name == "__builtin__ getattr"
    with pytest.raises(FormatError, match="it calls a Opaque"):
        value_of(method + b")R.", unknown=inert_class)
    with pytest.raises(UnsafeFileError, match=r"numpy\.os\.System"):
        value_of(b"\x80\x04\x8c\x05numpy\x8c\x09os.System\x93)R.", unknown=inert_class)


def test_other_ways_to_call() -> None:
    for data in (b"(S'x'\nios\nsystem\n.", b"(cos\nsystem\nS'x'\no.", b"cos\nsystem\n)\x81.", b"cos\nsystem\n)}\x92."):
        with pytest.raises(UnsafeFileError, match=r"os\.system"):
            value_of(data)
        with pytest.raises(UnsafeFileError, match=r"os\.system"):
            value_of(data, unknown=inert_class)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends without a STOP"),
        (b"N", "ends without a STOP"),
        (b".", "empty stack"),
        (b"\xff.", "no opcode 0xff"),
        (b"\x96" + struct.pack("<Q", 1 << 62) + b".", "bytes announced"),
        (b"\x8e" + struct.pack("<Q", 1 << 62) + b".", "bytes announced"),
        (b"\x8b" + struct.pack("<i", -5) + b".", "a number of -5 bytes"),
        (b"T" + struct.pack("<i", -5) + b".", "a text of -5 bytes"),
        (b"h\x05.", "memo 5, which was not set"),
        (b"I" + b"9" * 5000 + b"\n.", "a number of 5000 digits"),
        (b"Inope\n.", "not a number"),
        (b"Vnever", "a line without an end"),
        (b"S'x\n.", "without its quotes"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "text that is not utf-8"),
        (b"]K\x01K\x02u.", "mark that was not set"),
        (b"}(K\x01u.", "a key without a value"),
        (b"K\x01(K\x01e.", "appended to a int"),
        (b"}]K\x01s.", "a list as the key"),
        (b"}" + b")" + b"\x85" * 5000 + b"K\x01s.", "a tuple as the key"),
        (b"K\x01)R.", "it calls a int"),
        (b"K\x01}b.", "a state for a int"),
        (b"Pxy\n.", "a persistent id"),
        (b"\x82\x01.", "no opcode 0x82"),
        (b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb(NI1\ntR.", "it calls a"),
    ],
)
def test_damaged_pickles(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        value_of(data)


@pytest.mark.parametrize("module", ["joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle"])
@pytest.mark.parametrize("raw", [b"\x03\xe4", b"", b"0N"], ids=["no opcodes", "none", "opcodes"])
def test_arrays_of_joblib_between_the_opcodes(module: str, raw: bytes) -> None:
    """What the bytes of an array are taken for does not matter: no part of such a pickle is handed on."""
    data = b"\x80\x03c" + module.encode() + b"\nNumpyArrayWrapper\n)\x81" + raw + b"."
    with pytest.raises(FormatError, match=r"a pickle of joblib, .* numpy\.savez"):
        value_of(data, unknown=inert_class)


def array_pickle(shape: bytes, raw: bytes, dtype: bytes = b"f4") -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    kind = b"cnumpy\ndtype\n(V" + dtype + b"\nI00\nI01\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb"
    return made + b"(I1\n" + shape + kind + b"I00\nB" + struct.pack("<I", len(raw)) + raw + b"tb."


def test_arrays_whose_bytes_do_not_fit() -> None:
    assert value_of(array_pickle(b"(I2\nt", b"01234567")).shape == (2,)
    huge = b"(L4611686018427387904\nL4611686018427387904\nt"
    for shape, dtype in [(b"(I3\nt", b"f4"), (b"(I-2\nt", b"f4"), (huge, b"f4"), (b"(I2\nt", b"O8"), (b"(Nt", b"f4")]:
        with pytest.raises(FormatError, match="damaged pickle"):
            value_of(array_pickle(shape, b"01234567", dtype))
    assert isinstance(value_of(array_pickle(b"(I2\nt", b"01234567", b"V4")), Opaque)


def quick(data: bytes) -> None:
    """It ends in data or in an error; for what it takes see tests/attacks."""
    with contextlib.suppress(ConversionError):
        load(data, PATH, KNOWN, None, inert_class, loan=Loan(Budget(PATH, 8 << 20)))


def test_bombs_are_harmless() -> None:
    quick(b"N" + b"r\xff\xff\xff\xff" + b"r\xfe\xff\xff\x7f" + b".")  # memo far away
    quick(b"\x8f" * (1 << 17) + b".")  # empty sets
    quick(b"(" * (1 << 17) + b".")  # marks
    quick(b"N" + b"\x94" * (1 << 17) + b".")  # memo entries
    quick(b")" + b"\x85" * (1 << 17) + b".")  # nesting
    quick(b")" + b"2\x86" * 200 + b".")  # shared nesting, 2 ** 200 leaves
    quick(b"}(" + b"".join(b"\x8a\x10" + ((i << 61) - i).to_bytes(16, "little") + b"N" for i in range(50_000)) + b"u.")
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"\x940"
    call = b"c_codecs\nencode\n\x940(" + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 5000 + b"t."
    quick(text + call)  # one text, encoded again and again


def test_shared_containers_do_not_multiply_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nested, "MAX_ENTRIES", 10_000)
    value, numbers = [np.ones(1)], [1]  # type: list[Any], list[Any]
    for _ in range(60):
        value, numbers = [value, value], [numbers, numbers]
    with pytest.raises(FormatError, match="names have no end"):
        flatten(value, PATH)
    assert not flatten(numbers, PATH).kept  # what holds nothing is walked once
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(FormatError, match="deeper than"):
        flatten(deep, PATH)


def test_a_container_that_holds_itself_ends_there() -> None:
    value: dict[str, Any] = {"w": np.ones(1)}
    value["self"] = value
    value["list"] = [value, 2, np.ones(2)]
    found = flatten(value, PATH)
    assert [entry.name for entry in found.kept] == ["w", "list/2"]
    assert [(item.name, item.reason) for item in found.left_out] == [("list/1", "2")]


def test_what_is_shared_is_searched_once_also_in_circles() -> None:
    weight, calls = np.ones(1), 0

    def children(value: object) -> Any:
        nonlocal calls
        calls += 1
        return plain_children(value)

    circle: list[Any] = [list(range(5))]
    circle.append([circle, {"back": circle}])
    full: list[Any] = [circle, [circle, [weight]]]
    full.append(full)
    search = Search(children, lambda value: value is weight)
    for _ in range(50):
        assert not search.holds(circle) and search.holds(full) and not search.holds(3) and search.holds(weight)
        assert search.holds([circle, full]) and not search.holds({"c": circle})
    assert calls < 500


def test_leaves_have_no_children() -> None:
    assert plain_children(5) is None and plain_children(np.ones(3)) is None
    assert [entry.name for entry in flatten(np.ones(2), PATH).kept] == ["0"]
    assert [(item.name, item.reason) for item in flatten(5, PATH).left_out] == [("0", "5")]


def test_every_opcode_of_pickletools_is_known_or_refused() -> None:
    refused = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    for opcode in pickletools.opcodes:
        assert (ord(opcode.code) in OPCODES) == (opcode.name not in refused), opcode.name


def test_noise_ends_in_data_or_an_error() -> None:
    value = {"w": np.ones((3, 2)), "l": [1, 2.5, "x", b"y" * 20], "t": (1, (2,)), "s": {1, 2}}
    rng, errors = random.Random(11), 0
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(value, protocol)
        for _ in range(1500):
            noisy = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                noisy[rng.randrange(len(noisy))] = rng.randrange(256)
            try:
                found, _ = load(bytes(noisy), PATH, KNOWN, None, inert_class)
                flatten(found, PATH)
            except ConversionError:
                errors += 1
    assert errors > 1000
