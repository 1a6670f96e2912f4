"""The suites that every format inherits: `ReadContract`, and, where it is written, `FormatContract`."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import fsspec
import numpy as np
import pytest

from converter.core.tensors import DTYPES, TensorSpec
from converter.errors import ConversionError, FormatError
from converter.formats import Contents, Reader, by_name, open_reader, open_writer
from converter.formats.locations import location

Array: TypeAlias = np.ndarray[Any, Any]


def random_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Random bits of that dtype, so that every value (NaN payloads, denormals, -0.0) must survive.

    For bool 0/1, for the types of 4 and 6 bits values that fit.
    """
    rng = np.random.default_rng(seed)
    target = DTYPES[dtype]
    count = int(np.prod(shape))
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype in ("int4", "uint4", "float4_e2m1fn"):
        return rng.integers(0, 8, shape).astype(np.uint8).view(target).reshape(shape)
    if dtype.startswith("float6_"):
        return rng.integers(0, 64, shape).astype(np.uint8).view(target).reshape(shape)
    raw = rng.integers(0, 256, count * target.itemsize, dtype=np.uint8)
    return raw.view(target).reshape(shape)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def arrays_of(reader: Reader) -> dict[str, Array]:
    return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def specs_of(tensors: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, a.shape, a.dtype) for name, a in tensors.items())


class ReadContract:
    """What holds for every format: its reader, on a small file."""

    format: ClassVar[str]  # row of converter.formats.FORMATS

    def make(self, folder: Path) -> tuple[Path, Mapping[str, Array]]:
        """A small file in that folder, and the arrays that it holds."""
        raise NotImplementedError

    def read(self, path: Path) -> dict[str, Array]:
        row, reader = open_reader(path)
        with reader:
            arrays = {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}
        assert row.name == self.format, row.name
        return arrays

    def test_another_process_can_open_the_same(self, tmp_path: Path) -> None:
        path, _ = self.make(tmp_path)
        with open_reader(path)[1] as reader:
            specs, arrays = dict(reader.contents.by_name), arrays_of(reader)
            opening = pickle.loads(pickle.dumps(reader.opening))
        with opening() as again:
            assert again.prepare([*specs, "no such tensor"]) == specs
            assert all(same_bits(again.read(name), array) for name, array in arrays.items())

    def test_the_same_is_read_behind_a_url(self, tmp_path: Path) -> None:
        path, _ = self.make(tmp_path)
        with open_reader(path)[1] as reader:
            arrays = arrays_of(reader)
        store = fsspec.filesystem("memory")
        store.put(f"{tmp_path}/", f"/{tmp_path.name}/", recursive=True)
        try:
            row, reader = open_reader(location(f"memory://{tmp_path.name}/{path.relative_to(tmp_path)}"))
            with reader:
                found = arrays_of(reader)
        finally:
            store.rm(f"/{tmp_path.name}", recursive=True)
        assert row.name == self.format and list(found) == list(arrays)
        assert all(same_bits(found[name], array) for name, array in arrays.items())
        assert not any(array.flags.writeable for array in found.values())

    def files(self, folder: Path) -> list[Path]:
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def test_arrays_are_read_bit_for_bit(self, tmp_path: Path) -> None:
        path, arrays = self.make(tmp_path)
        found = self.read(path)
        assert set(found) == set(arrays) and all(same_bits(found[name], arrays[name]) for name in arrays)

    def test_arrays_are_read_only_and_outlive_the_reader(self, tmp_path: Path) -> None:
        path, arrays = self.make(tmp_path)
        _, reader = open_reader(path)
        with reader:
            found = {name: reader.read(name) for name in arrays}
        for name, array in found.items():
            assert not array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative
            assert same_bits(array, arrays[name])

    def test_a_truncated_file_is_an_error_or_the_same_data(self, tmp_path: Path) -> None:
        path, arrays = self.make(tmp_path)
        refused = 0
        for victim in self.files(tmp_path):
            data = victim.read_bytes()
            for length in self._lengths(len(data)):
                victim.write_bytes(data[:length])
                try:
                    back = self.read(path)
                except FormatError as error:
                    refused += 1
                    assert str(error).startswith(str(tmp_path))
                else:
                    assert all(same_bits(back[name], a) for name, a in arrays.items()), (victim.name, length)
            victim.write_bytes(data)
        assert refused > 10

    def _lengths(self, size: int) -> list[int]:
        """The ends one by one, and some between them; `make fuzz` tries others."""
        inner = random.Random(size).sample(range(size), min(60, size))
        return sorted({*inner, *range(min(30, size)), *range(max(0, size - 30), size)})

    def test_flipped_bits_end_in_data_or_a_format_error(self, tmp_path: Path) -> None:
        path, _ = self.make(tmp_path)
        rng = random.Random(7)
        outcomes = {"data": 0, "error": 0}
        for victim in self.files(tmp_path):
            data = victim.read_bytes()
            for _ in range(60):
                flipped = bytearray(data)
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                victim.write_bytes(flipped)
                try:
                    self.read_any(path)
                    outcomes["data"] += 1
                except ConversionError:
                    outcomes["error"] += 1
            victim.write_bytes(data)
        assert outcomes["error"] > 0

    def read_any(self, path: Path) -> None:
        """Read whatever the damaged file is now taken for."""
        _, reader = open_reader(path)
        with reader:
            for spec in reader.contents.specs:
                array = reader.read(spec.name)
                assert array.shape == spec.shape and array.dtype == spec.dtype


class FormatContract(ReadContract):
    file_name: ClassVar[str]  # a name with a usual extension; for a checkpoint the prefix
    dtypes: ClassVar[tuple[str, ...]]  # every dtype that the format can hold
    names: ClassVar[tuple[str, ...]] = ("hidden.weight", "hidden.bias")  # two names as the format spells them
    containers: ClassVar[tuple[str, ...]] = ("dict",)
    keeps_order: ClassVar[bool] = True

    def write(self, folder: Path, tensors: Mapping[str, Array], container: str = "dict") -> Path:
        path = folder / self.file_name
        row = by_name(self.format)
        contents = Contents(specs_of(tensors), container, metadata=row.metadata)  # type: ignore[arg-type]
        with open_writer(row, path, contents) as writer:
            for name in reversed(list(tensors)):
                writer.write(name, tensors[name])
        return path

    def small(self) -> dict[str, Array]:
        first, second = self.names
        return {first: random_array((3, 2), self.dtypes[0], 1), second: random_array((3,), self.dtypes[0], 2)}

    def make(self, folder: Path) -> tuple[Path, Mapping[str, Array]]:
        return self.write(folder, self.small()), self.small()

    def test_every_dtype_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        for seed, dtype in enumerate(self.dtypes):
            folder = tmp_path / dtype
            folder.mkdir()
            tensors = {
                self.names[0]: random_array((3, 4), dtype, seed),
                self.names[1]: random_array((5,), dtype, seed + 99),
            }
            back = self.read(self.write(folder, tensors))
            assert set(back) == set(tensors)
            assert all(same_bits(back[name], tensors[name]) for name in tensors), dtype

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1), (2, 3, 4), (2, 1, 2, 1, 2)])
    def test_every_shape_comes_back(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        tensors = {
            self.names[0]: random_array(shape, self.dtypes[0], 3),
            self.names[1]: random_array((2,), self.dtypes[0], 4),
        }
        back = self.read(self.write(tmp_path, tensors))
        assert all(same_bits(back[name], tensors[name]) for name in tensors)

    def test_containers_and_order_come_back(self, tmp_path: Path) -> None:
        for container in self.containers:
            folder = tmp_path / container
            folder.mkdir()
            names = {"tensor": ["0"], "list": [str(i) for i in range(12)], "dict": list(self.names)}[container]
            tensors = {name: random_array((2, i + 1), self.dtypes[0], i) for i, name in enumerate(names)}
            path = self.write(folder, tensors, container)
            _, reader = open_reader(path)
            with reader:
                assert reader.contents.container == container
                found = [spec.name for spec in reader.contents.specs]
                assert found == names if self.keeps_order else sorted(found) == sorted(names)
            assert all(same_bits(a, tensors[name]) for name, a in self.read(path).items())

    def test_strided_arrays_are_written_as_their_values(self, tmp_path: Path) -> None:
        base = random_array((6, 8), self.dtypes[0], 5)
        tensors = {self.names[0]: base.T, self.names[1]: base[::2, 1]}
        back = self.read(self.write(tmp_path, tensors))
        assert all(same_bits(back[name], np.ascontiguousarray(tensors[name])) for name in tensors)

    def test_same_input_same_bytes(self, tmp_path: Path) -> None:
        found = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            folder.mkdir()
            self.write(folder, self.small())
            found.append([(file.relative_to(folder), file.read_bytes()) for file in self.files(folder)])
        assert found[0] == found[1]

    def test_a_failed_write_leaves_the_old_file_and_nothing_new(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, self.small())
        before = [(file, file.read_bytes()) for file in self.files(tmp_path)]
        tensors = self.small()
        with pytest.raises(RuntimeError, match="stop here"):
            row = by_name(self.format)
            with open_writer(row, path, Contents(specs_of(tensors), metadata=row.metadata)) as writer:
                writer.write(self.names[0], tensors[self.names[0]])
                raise RuntimeError("stop here")
        assert [(file, file.read_bytes()) for file in self.files(tmp_path)] == before
