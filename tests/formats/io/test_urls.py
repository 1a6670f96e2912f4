"""Sources and targets behind URLs: the bytes of local files, nothing half written, clear errors."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import orbax.checkpoint
import pytest
import torch
from flax.serialization import from_bytes
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

import converter
from converter.commands.convert import convert
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, FormatError, MissingLibraryError, OutputError
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.formats.io import upload
from converter.formats.io.remote import BLOCK, RemoteSource
from converter.formats.locations import is_url, location
from tests.command import ok, refused
from tests.formats.every import FILES, names

SHAPES: dict[str, tuple[int, ...]] = {f"blocks.{i}.dense.weight": (300 + i, 500 - i) for i in range(4)}
SHAPES |= {f"blocks.{i}.dense.bias": (300 + i,) for i in range(4)}
LIMIT = "1MB"


class Bucket(MemoryFileSystem):
    """An object store: no folders, one bucket that is there; what is moved is copied. It keeps a log of its calls."""

    protocol = "bucket"
    store: dict[str, Any] = {}
    pseudo_dirs: list[str] = [""]
    log: list[tuple[str, Any]] = []
    broken: str = ""  # what may not be written

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("bucket://", "memory://"))

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        if mode != "rb" and not path.startswith("/there/"):
            raise FileNotFoundError("The specified bucket does not exist")
        if mode != "rb" and self.broken and self.broken in path:
            raise RuntimeError("503 Slow Down")
        return super()._open(path, mode, *args, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.log.append(("read", (end or 0) - (start or 0)))
        return bytes(super().cat_file(path, start, end, **options))

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self.log.append(("copy", path2))
        super().cp_file(path1, path2, **options)


@pytest.fixture
def bucket() -> Iterator[type[Bucket]]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    yield Bucket
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.log.clear()
    Bucket.broken = ""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("source") / "s.pt"
    torch.save({name: torch.randn(shape) for name, shape in SHAPES.items()}, path)
    return path


@pytest.fixture(scope="module")
def former_source(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("former") / "s.pt"
    torch.save({name: tensor + 1 for name, tensor in torch.load(source).items()}, path)
    return path


def stored(store: type[Bucket]) -> dict[str, bytes]:
    return {name: file.getvalue() for name, file in store.store.items()}


def local(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {f"/there/{file.relative_to(folder)}": file.read_bytes() for file in found}


TARGETS = [
    ("flax", "x.msgpack", None),
    ("torch", "x.pt", None),
    ("tf", "x.ckpt", None),
    ("keras", "x.weights.h5", None),
    ("mxnet", "x.params", None),
    ("flax", "x.orbax", None),
    ("flax", "x.orbax", LIMIT),
    ("neutral", "x.safetensors", LIMIT),
    ("torch", "x.pt", LIMIT),
]


@pytest.mark.parametrize(("target", "name", "limit"), TARGETS)
def test_what_is_written_to_a_url_is_what_is_written_to_a_disk(
    source: Path, tmp_path: Path, bucket: type[Bucket], target: str, name: str, limit: str | None
) -> None:
    fsspec.filesystem("bucket").put(str(source), "/there/s.pt")
    given = stored(bucket)
    convert(f"torch->{target}", "bucket:///there/s.pt", f"bucket:///there/{name}", max_shard_size=limit)
    convert(f"torch->{target}", source, tmp_path / name, max_shard_size=limit)
    assert stored(bucket) == given | local(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        convert(f"torch->{target}", "bucket:///there/s.pt", f"bucket:///there/{name}", max_shard_size=limit)
    convert(f"torch->{target}", "bucket:///there/s.pt", f"bucket:///there/{name}", max_shard_size=limit, force=True)
    assert stored(bucket) == given | local(tmp_path)


def test_a_framework_loads_what_was_written_to_a_url(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(source), "/t/s.pt")
    try:
        printed = ok(capsys, "torch->flax", "memory://t/s.pt", "-o", "memory://t/x.msgpack")
        assert printed.startswith("memory://t/s.pt (PyTorch file)") and "written to memory://t/x.msgpack" in printed
        params = from_bytes(None, memory.cat_file("/t/x.msgpack"))["params"]
        assert "blocks.1.dense.weight" in ok(capsys, "inspect", "memory://t/s.pt")
        ok(capsys, "verify", "memory://t/s.pt", "memory://t/x.msgpack")
    finally:
        memory.rm("/t", recursive=True)
    state = torch.load(source, weights_only=True)
    for i in range(4):
        np.testing.assert_array_equal(params["blocks"][str(i)]["dense"]["kernel"], state[f"blocks.{i}.dense.weight"].T)


def test_file_urls_are_paths(source: Path, tmp_path: Path) -> None:
    assert location(f"file://{source}") == source and not is_url(location(f"file://{source}"))
    convert("torch->flax", f"file://{source}", f"file://{tmp_path}/a.msgpack")
    convert("torch->flax", source, tmp_path / "b.msgpack")
    assert (tmp_path / "a.msgpack").read_bytes() == (tmp_path / "b.msgpack").read_bytes()


#: Formats that say where each tensor is. Of the others all is read: pickles, and `.keras`, which has one checksum.
IN_PARTS = sorted(set(FILES) - {"npy", "torch-legacy", "keras"})


@pytest.mark.parametrize("row", IN_PARTS)
def test_only_what_is_asked_for_is_fetched(tmp_path: Path, bucket: type[Bucket], row: str) -> None:
    large, small = (
        TensorSpec(name, (size,), np.dtype("float32"))
        for name, size in zip(names(row, 2), (2 << 20, 5000), strict=True)
    )
    path = tmp_path / FILES[row]
    with open_writer(by_name(row), path, Contents((large, small))) as writer:
        for spec in (large, small):
            writer.write(spec.name, np.random.default_rng(0).random(spec.shape, np.float32))
    fsspec.filesystem("bucket").put(f"{tmp_path}/", "/there/", recursive=True)
    with open_reader(location(f"bucket:///there/{path.name}"))[1] as reader:
        assert reader.contents.by_name.keys() == {large.name, small.name}
        reader.read(small.name)
    fetched = sum(size for what, size in bucket.log if what == "read")
    assert small.nbytes <= fetched < large.nbytes / 8


@pytest.mark.parametrize("name", ["s.pt", "s.safetensors"])
def test_ties_are_looked_for_by_the_ends(tmp_path: Path, bucket: type[Bucket], name: str) -> None:
    path = tmp_path / name
    tensor = torch.randn(1000, 2000)
    state = {"a.weight": tensor, "b.weight": tensor.T.contiguous().T, "c.weight": tensor[:10, :10].contiguous()}
    torch.save(state, path) if name == "s.pt" else save_file({k: t.contiguous() for k, t in state.items()}, path)
    fsspec.filesystem("bucket").put(str(path), f"/there/{name}")
    with open_reader(location(f"bucket:///there/{name}"))[1] as reader:
        peeked = {spec.name: reader.peek(spec.name).reshape(-1) for spec in reader.contents.specs}
    for key, array in peeked.items():
        expected = state[key].reshape(-1).numpy()
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array[:64], expected[:64])
        np.testing.assert_array_equal(array[-64:], expected[-64:])
    with open_reader(location(f"bucket:///there/{name}"))[1] as reader:
        bucket.log.clear()
        reader.peek("a.weight")
        assert sum(size for what, size in bucket.log if what == "read") < 10 * BLOCK


def test_small_pieces_are_fetched_in_blocks_and_at_once(tmp_path: Path, bucket: type[Bucket]) -> None:
    path = tmp_path / "s.pt"
    torch.save({f"w{number}": torch.randn(100) for number in range(1000)}, path)
    fsspec.filesystem("bucket").put(str(path), "/there/s.pt")
    with open_reader(location("bucket:///there/s.pt"))[1] as reader:
        assert len(reader.contents.specs) == 1000
    requests = [size for what, size in bucket.log if what == "read"]
    assert len(requests) <= path.stat().st_size / BLOCK + 4  # the ends, the directory, and the pickle


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, for this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nosuch://x/s.pt", "fsspec knows no protocol 'nosuch'"),
        ("bucket:///there/none.pt", "it does not exist"),
        ("bucket:///gone/none.pt", "it does not exist"),
    ],
)
def test_a_source_that_is_not_there(
    tmp_path: Path, bucket: type[Bucket], capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    message = refused(capsys, "torch->flax", url, "-o", tmp_path / "x.msgpack")
    assert message.startswith(f"error: {url}: ") and said in message and message.count("\n") == 1


@pytest.mark.parametrize("error", [PermissionError("Forbidden"), RuntimeError("Forbidden")])  # each store has its own
def test_what_may_not_be_seen(
    source: Path,
    tmp_path: Path,
    bucket: type[Bucket],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def forbidden(self: Bucket, path: str, **options: Any) -> Any:
        raise error

    for call in ("info", "exists", "isfile", "isdir"):
        monkeypatch.setattr(Bucket, call, forbidden)
    said = refused(capsys, "torch->flax", "bucket:///there/s.pt", "-o", tmp_path / "x.msgpack")
    assert said == "error: bucket:///there/s.pt: cannot be read: Forbidden\n"
    said = refused(capsys, "torch->flax", source, "-o", "bucket:///there/x.msgpack")
    assert said == "error: bucket:///there/x.msgpack: cannot be written: Forbidden\n"


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingLibraryError, match=r"s3://b/x\.pt: a package for 's3' is missing: Install s3fs"):
        converter.read("s3://b/x.pt")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'weights-converter\[url\]'"):
        converter.read("memory://b/x.pt")


@pytest.mark.parametrize(("name", "limit"), [("x.msgpack", None), ("x.safetensors", LIMIT), ("x.ckpt", None)])
def test_a_bucket_that_is_not_there(
    source: Path, temporary: Path, bucket: type[Bucket], name: str, limit: str | None
) -> None:
    target = "tf" if name == "x.ckpt" else "flax"
    with pytest.raises(
        OutputError, match=r"^bucket:///gone/x.*: cannot be written: The specified bucket does not exist$"
    ):
        convert(f"torch->{target}", source, f"bucket:///gone/{name}", max_shard_size=limit)
    assert list(temporary.iterdir()) == [] and stored(bucket) == {}


@pytest.mark.parametrize(
    "what",
    [
        ("flax", "x.msgpack", None, "x.msgpack"),
        ("tf", "x.ckpt", None, "x.ckpt.index"),
        ("neutral", "x.safetensors", LIMIT, "x-00002"),
        ("neutral", "x.safetensors", LIMIT, "index.json"),
        ("flax", "x.orbax", None, "_METADATA"),
    ],
)
@pytest.mark.parametrize("former", [False, True])
def test_a_store_that_fails_leaves_the_former_file(
    source: Path,
    former_source: Path,
    temporary: Path,
    bucket: type[Bucket],
    what: tuple[str, str, str | None, str],
    former: bool,
) -> None:
    target, name, limit, broken = what
    if former:
        convert(f"torch->{target}", former_source, f"bucket:///there/{name}", max_shard_size=limit)
    before = stored(bucket)
    bucket.broken = broken
    with pytest.raises(ConversionError, match="503 Slow Down"):
        convert(f"torch->{target}", source, f"bucket:///there/{name}", max_shard_size=limit, force=True)
    assert stored(bucket) == before and bool(before) == former
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(("target", "name", "limit"), [("tf", "x.ckpt", None), ("neutral", "x.safetensors", LIMIT)])
def test_a_move_that_fails_brings_the_former_file_back(
    source: Path,
    former_source: Path,
    bucket: type[Bucket],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    name: str,
    limit: str | None,
) -> None:
    convert(f"torch->{target}", former_source, f"bucket:///there/{name}", max_shard_size=limit)
    before, left, failures = stored(bucket), 0, 0
    copy = Bucket.cp_file

    def failing(self: Bucket, path1: str, path2: str, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise RuntimeError("503 Slow Down")
        copy(self, path1, path2, **options)

    monkeypatch.setattr(Bucket, "cp_file", failing)
    while stored(bucket) == before:
        left = failures
        try:
            convert(f"torch->{target}", source, f"bucket:///there/{name}", max_shard_size=limit, force=True)
        except ConversionError:
            failures += 1
            assert stored(bucket) == before
    assert failures == (2 + 2 if target == "tf" else 4 + 5 + 5)
    assert stored(bucket).keys() == before.keys()


def test_an_object_store_takes_one_file_under_its_own_name(
    source: Path, bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "WHOLE_OR_NOT", {"bucket"})
    convert("torch->flax", source, "bucket:///there/x.msgpack")
    assert list(stored(bucket)) == ["/there/x.msgpack"] and "copy" not in dict(bucket.log)


def test_complete_shards_in_a_store_are_kept_for_resume(source: Path, tmp_path: Path, bucket: type[Bucket]) -> None:
    bucket.broken = "x-00003"
    output = "bucket:///there/x.safetensors"
    with pytest.raises(ConversionError, match="503 Slow Down"):
        convert("torch->neutral", source, output, max_shard_size=LIMIT, resume=True)
    kept = {Path(name).name for name in stored(bucket)} - {"work"}
    assert {"x-00001-of-00004.safetensors", "x-00002-of-00004.safetensors"} <= kept and len(kept) < 4
    bucket.broken = ""
    seen: list[tuple[int, int]] = []
    convert("torch->neutral", source, output, max_shard_size=LIMIT, resume=True, progress=lambda *c: seen.append(c))
    convert("torch->neutral", source, tmp_path / "x.safetensors", max_shard_size=LIMIT)
    assert len(seen) == 4 - len(kept) and stored(bucket) == local(tmp_path)


def test_what_a_server_does_not_give(source: Path, bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("bucket").put(str(source), "/there/s.pt")
    url = location("bucket:///there/s.pt")
    with open_reader(url)[1] as reader:
        name = reader.contents.specs[0].name
        monkeypatch.setattr(Bucket, "cat_file", lambda *args, **options: b"short")
        with pytest.raises(FormatError, match=r"^bucket:///there/s\.pt: became shorter while it was read"):
            reader.read(name)

        def reset(*args: Any, **options: Any) -> bytes:
            raise RuntimeError("connection reset")

        monkeypatch.setattr(Bucket, "cat_file", reset)
        with pytest.raises(FormatError, match=r"^bucket:///there/s\.pt: cannot be read: connection reset"):
            reader.read(name)
    monkeypatch.setattr(Bucket, "info", lambda *args, **options: {"name": "s.pt", "type": "file", "size": None})
    with pytest.raises(FormatError, match="its server does not say how large it is"):
        RemoteSource(url)


def test_what_tensorstore_reads_has_to_be_on_a_disk(tmp_path: Path, bucket: type[Bucket]) -> None:
    checkpointer = orbax.checkpoint.StandardCheckpointer()
    checkpointer.save(tmp_path / "c", {"w": np.arange(6.0)})
    checkpointer.wait_until_finished()
    fsspec.filesystem("bucket").put(f"{tmp_path}/", "/there/", recursive=True)
    with pytest.raises(FormatError, match=r"^bucket:///there/c.*Copy the folder to one first"):
        converter.read("bucket:///there/c")


def test_a_certificate_is_of_files_on_a_disk(source: Path, tmp_path: Path, bucket: type[Bucket]) -> None:
    with pytest.raises(ConversionError, match=r"is a URL\. Copy the file first"):
        convert("torch->flax", source, "bucket:///there/x.msgpack", certificate=tmp_path / "c.json")
    assert stored(bucket) == {}
