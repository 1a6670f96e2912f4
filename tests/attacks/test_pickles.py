"""Pickles that say much in few bytes, share what is large, or hold what cannot be written down."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.handmade import array, memo, named, number, plain, recall, tensor, text, torch_zip
from tests.attacks.limits import harmless, refused

RNG = np.random.default_rng(12)
WEIGHT = array(RNG.standard_normal((3, 2)).astype(np.float32))
TOO_MUCH = "bytes that the file does not store"
SMALL = b"".join(b"M" + i.to_bytes(2, "little") for i in range(60_000))
LIST = b"](" + SMALL + b"e" + memo(0) + b"0"
OBJECT = (
    named("numpy.dtype")
    + text("O8")
    + b"\x89\x88\x87R(K\x03"
    + text("|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
)
EMPTY = named("numpy.core.multiarray._reconstruct") + named("numpy.ndarray") + b"K\0\x85C\1b\x87R"


def calls(function: str, count: int) -> bytes:
    """The function, again and again of the one list."""
    return LIST + named(function) + memo(1) + b"0](" + (recall(1) + recall(0) + b"\x85R") * count + b"e"


COPIES = {
    "list": calls("__builtin__.list", 3000),
    "tuple": calls("__builtin__.tuple", 3000),
    "set": calls("__builtin__.set", 1000),
    "frozenset": calls("__builtin__.frozenset", 1000),
    "deque": calls("collections.deque", 3000),
    "torch.Size": calls("torch.Size", 3000),
    "object array": LIST
    + OBJECT
    + memo(1)
    + b"0]("
    + (EMPTY + b"(K\1" + number(60_000) + b"\x85" + recall(1) + b"\x89" + recall(0) + b"tb") * 1500
    + b"e",
    "text": text("ä" * 500_000)
    + memo(0)
    + b"0]("
    + (named("_codecs.encode") + recall(0) + text("latin1") + b"\x86R") * 900
    + b"e",
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_one_container(tmp_path: Path, kind: str) -> None:
    assert TOO_MUCH in refused("inspect", plain(tmp_path / "a.pkl", COPIES[kind]), cwd=tmp_path)


@pytest.mark.parametrize(
    "items",
    [b"}K\1K\1s" * 1_100_000, b")" + b"\x85" * 6_000_000],
    ids=["dicts of one item", "TUPLE1"],
)
def test_small_containers_without_number(tmp_path: Path, items: bytes) -> None:
    assert TOO_MUCH in refused("inspect", plain(tmp_path / "a.pkl", b"(" + items + b"t"), cwd=tmp_path)


def test_many_leaves_far_down(tmp_path: Path) -> None:
    leaves = WEIGHT + memo(0) + b"0](" + b"h\0" * 300_000 + b"e"
    nested = b"}" + text("key") + b"".join(b"}" + text("key") for _ in range(97)) + leaves + b"s" * 98
    assert TOO_MUCH in refused("inspect", plain(tmp_path / "a.pkl", nested), cwd=tmp_path)


def test_many_numbers_are_refused_or_passed_over(tmp_path: Path) -> None:
    """What a plain list of a million floats is."""
    floats = b"](" + b"G?\xf0\0\0\0\0\0\1" * 1_000_000 + b"e"
    assert "holds no numeric arrays" in refused("inspect", plain(tmp_path / "a.pkl", floats), cwd=tmp_path)


SHARED = b"](" + SMALL + b"e" + memo(0) + b"0"
KEYS = b"".join(text(f"k{i}") + recall(0) for i in range(100_000))


@pytest.mark.parametrize("name", ["a.pkl", "a.pt"])
def test_many_keys_share_one_list(tmp_path: Path, name: str) -> None:
    if name == "a.pkl":
        path = plain(tmp_path / name, SHARED + b"}(" + text("w") + WEIGHT + KEYS + b"u")
    else:
        weights = text("state_dict") + b"}" + text("w") + tensor("0", 4, (2, 2), (2, 1)) + b"s"
        path = torch_zip(tmp_path / name, SHARED + b"}(" + weights + KEYS + b"u", {"0": RNG.bytes(16)})
    harmless("inspect", path, "--json", cwd=tmp_path, code=0)


def test_many_objects_share_the_list_with_the_weight(tmp_path: Path) -> None:
    shared = b"](" + SMALL + WEIGHT + b"e" + memo(0) + b"0"
    assert "names have no end" in refused(
        "inspect", plain(tmp_path / "a.pkl", shared + b"}(" + KEYS + b"u"), cwd=tmp_path
    )


def test_the_names_of_unsaved_buffers_are_looked_up_once(tmp_path: Path) -> None:
    names = [text(f"b{i}") for i in range(60_000)]
    buffers = b"}(" + b"".join(name + b"N" for name in names) + text("kept") + tensor("0", 2, (2,), (1,)) + b"u"
    transient = b"](" + b"".join(names) + b"e"
    state = text("_parameters") + b"}" + text("_modules") + b"}" + text("_buffers") + buffers
    state += text("_non_persistent_buffers_set") + transient
    net = named("__main__.Net") + b")\x81}(" + state + b"ub"
    found = harmless("inspect", torch_zip(tmp_path / "a.pt", net, {"0": RNG.bytes(8)}), cwd=tmp_path, code=0)
    assert "kept" in found.out


@pytest.mark.parametrize("name", [".".join("a" * 20_000), "a" * 100_000], ids=["dots", "long"])
def test_names_that_no_net_has(tmp_path: Path, name: str) -> None:
    path = torch_zip(tmp_path / "a.pt", b"}" + text(name) + tensor("0", 2, (2,), (1,)) + b"s", {"0": RNG.bytes(8)})
    assert "at most" in refused("torch->flax", path, cwd=tmp_path)


HUGE = number(1 << 80_000)


@pytest.mark.parametrize(
    "body",
    [
        b"}" + text("n") + HUGE + b"s",
        b"}" + HUGE + WEIGHT + b"s",
        HUGE,
        tensor("0", 2, (1 << 80_000,), (1,)),
        tensor("0", 1 << 80_000, (2,), (1,)),
        named("__builtin__.complex") + HUGE + b"\x85R",
        named("__main__.Net") + HUGE + b"\x85R",
    ],
    ids=["value", "key", "alone", "shape", "storage", "complex", "argument"],
)
def test_numbers_of_thousands_of_digits(tmp_path: Path, body: bytes) -> None:
    assert (
        "digits" not in harmless("inspect", torch_zip(tmp_path / "a.pt", body, {"0": RNG.bytes(8)}), cwd=tmp_path).err
    )
    harmless("inspect", plain(tmp_path / "a.pkl", body), cwd=tmp_path)
    legacy = b"\x80\x02" + HUGE + b"."
    (tmp_path / "b.pt").write_bytes(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + legacy)
    refused("inspect", tmp_path / "b.pt", cwd=tmp_path)


def test_a_header_with_a_size_of_thousands_of_digits(tmp_path: Path) -> None:
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0x{'f' * 9000},), }}\n".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)
    assert "impossible shape" in refused("inspect", tmp_path / "a.npy", cwd=tmp_path)


# -- tensors and archives -------------------------------------------------------------------------------------------


def test_one_storage_sixteen_times_over(tmp_path: Path) -> None:
    count = 10 << 20
    path = torch_zip(tmp_path / "a.pt", tensor("0", count, (16, count), (0, 1)), {"0": bytes(4 * count)})
    assert TOO_MUCH in refused("torch->flax", path, cwd=tmp_path)


def npy(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    import io

    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_a_sparse_array_of_a_thousand_times_its_size(tmp_path: Path) -> None:
    rows, columns = 12_500, 5_000
    parts = {
        "data": np.ones(1, np.float32),
        "indices": np.zeros(1, np.int32),
        "indptr": np.minimum(np.arange(rows + 1), 1).astype(np.int32),
        "shape": np.array([rows, columns]),
        "format": np.array(b"csr"),
    }
    np.savez(tmp_path / "a.npz", **parts)
    assert TOO_MUCH in refused("torch->flax", tmp_path / "a.npz", cwd=tmp_path)


@pytest.mark.parametrize("kind", ["a.npz", "a.pt"])
def test_an_archive_that_unpacks_to_two_hundred_times_its_size(tmp_path: Path, kind: str) -> None:
    zeros = bytes(150 << 20)
    noise = RNG.bytes(1 << 20)
    if kind == "a.npz":
        head = npy(np.empty(0, np.uint8)).replace(b"(0,), }" + b" " * 8, b"(%d,), }" % len(zeros))
        with zipfile.ZipFile(tmp_path / kind, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("a.npy", head + zeros)
            archive.writestr("b.npy", npy(np.frombuffer(noise, np.uint8)))
    else:
        body = tensor("0", len(zeros) // 4, (len(zeros) // 4,), (1,))
        torch_zip(tmp_path / kind, body, {"0": zeros, "1": noise}, packed=True)
    assert TOO_MUCH in refused("torch->flax", tmp_path / kind, cwd=tmp_path)


def test_a_directory_of_an_archive_full_of_entries(tmp_path: Path) -> None:
    """Each entry takes a thousand bytes of memory while it is read."""
    directory = (b"PK\1\2" + bytes(24) + b"\1" + bytes(17) + b"a") * 400_000
    start = b"PK\3\4" + bytes(60)
    end = b"PK\5\6" + bytes(8) + len(directory).to_bytes(4, "little") + len(start).to_bytes(4, "little") + b"\0\0"
    (tmp_path / "a.npz").write_bytes(start + directory + end)
    assert "an archive of more than" in refused("inspect", tmp_path / "a.npz", cwd=tmp_path)


def test_impossible_dates_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", npy(RNG.standard_normal((3, 2)).astype(np.float32)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    for start, offset in ((b"PK\3\4", 10), (b"PK\1\2", 12)):
        at = data.index(start) + offset
        data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.npz").write_bytes(data)
    harmless("inspect", tmp_path / "a.npz", cwd=tmp_path, code=0)
