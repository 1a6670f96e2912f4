"""Exported programs, TorchScript, shards and distributed checkpoints that today's torch writes."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.export.pt2_archive._package import package_pt2

from converter.errors import ConversionError, FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, open_reader
from converter.formats.torch.sharded import FileWriter
from converter.formats.torch.tensors import TORCH_DTYPES
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.torch.test_zip import assert_same, contents, random_tensor, read, rewrite, save, to_numpy


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.brief = torch.nn.Parameter(random_tensor((3,), "bfloat16", 1).nan_to_num())
        self.register_buffer("turned", torch.randn(4, 3).t())
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.tied = self.conv.weight
        self.constant = torch.randn(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)) + self.hidden.view(1, 2, 1, 1) + self.turned.sum()
        return y + self.brief.sum().float() + self.constant.sum()


def names_and_arrays(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same tensors in whatever order."""
    found = read(path)
    assert set(found) == set(tensors)
    assert all(same_bits(found[name], to_numpy(tensor)) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.rand(1, 1, 8, 8),)), path)
    return path


def test_an_exported_program_gives_its_state_dict(exported: Path) -> None:
    assert open_reader(exported)[0].name == "torch-export"
    names_and_arrays(exported, Net().state_dict())
    reasons = {item.name: item.reason for item in contents(exported).left_out}
    assert reasons == dict.fromkeys(
        ["hidden", "constant"], "a constant of the program, which its state_dict does not have"
    )


def test_an_exported_program_says_its_writer(exported: Path) -> None:
    assert contents(exported).writer == f"PyTorch {torch.__version__}"


def test_several_programs_in_one_archive(tmp_path: Path) -> None:
    nets = {name: torch.nn.Linear(3, size) for name, size in (("encoder", 4), ("decoder", 2))}
    programs = {name: torch.export.export(net, (torch.rand(1, 3),)) for name, net in nets.items()}
    path = tmp_path / "two.pt2"
    package_pt2(path, exported_programs=programs)
    expected = {f"{name}/{leaf}": tensor for name, net in nets.items() for leaf, tensor in net.state_dict().items()}
    names_and_arrays(path, expected)
    assert_same(read(path, key="decoder"), dict(nets["decoder"].state_dict()))


def test_an_exported_program_of_a_big_endian_machine(tmp_path: Path, exported: Path) -> None:
    state = Net().state_dict()
    config = json.loads(zipfile.ZipFile(exported).read("net/data/weights/model_weights_config.json"))["config"]
    changed = {"net/byteorder": b"big"}
    for name, item in config.items():
        raw = zipfile.ZipFile(exported).read(f"net/data/weights/{item['path_name']}")
        width = to_numpy(state[name]).dtype.itemsize
        changed[f"net/data/weights/{item['path_name']}"] = np.frombuffer(raw, f"u{width}").byteswap().tobytes()
    names_and_arrays(rewrite(shutil.copy(exported, tmp_path / "big.pt2"), changed), state)


def test_a_pickled_weight_of_a_program_is_left_out_by_name(tmp_path: Path, exported: Path) -> None:
    """A tensor of a subclass (``use_pickle`` of the schema)."""
    member = "net/data/weights/model_weights_config.json"
    config = json.loads(zipfile.ZipFile(exported).read(member))
    config["config"]["brief"]["use_pickle"] = True
    path = rewrite(shutil.copy(exported, tmp_path / "sub.pt2"), {member: json.dumps(config).encode()})
    assert "brief" not in read(path)
    assert {item.name: item.reason for item in contents(path).left_out}["brief"].startswith("a tensor of a subclass")


@pytest.mark.parametrize("member", ["serialized_state_dict.pt", "serialized_state_dict.json"])
def test_exported_programs_before_their_archive(tmp_path: Path, member: str) -> None:
    """Until 2.6 (``torch/export/__init__.py``): whole files of torch.save as members."""
    buffer = io.BytesIO()
    state = dict(Net().state_dict())
    torch.save(state, buffer)
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr(member, buffer.getvalue())
        archive.writestr("version", "5.1")
    assert_same(read(path), state)
    data = path.read_bytes()
    path.write_bytes(data.replace(to_numpy(state["conv.bias"]).tobytes(), b"\x00" * 8))
    with pytest.raises(FormatError, match="CRC"):
        read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"sizes": [{"as_int": 3}]', b'"sizes": [{"as_int": 9}]', "'brief': shape"),
        (b'"sizes": [{"as_int": 3}]', b'"sizes": [{"as_int":-3}]', "not a number that is not negative"),
        (b'"sizes": [{"as_int": 3}]', b'"sizes": [{"as_expr":3}]', "not a number that is not negative"),
        (b'"dtype": 13', b'"dtype": 99', "not a known dtype"),
        (b'"layout": 7', b'"layout": 1', "not strided"),
        (b'"path_name": "weight_0"', b'"path_name": "weight_x"', "no member"),
        (b'"path_name": "weight_0"', b'"path_name": "../secret"', "no member"),
        (b'{"config"', b'{"konfig"', "not an object"),
        (b'{"config"', b'["config"', "is not JSON"),
        (b'"use_pickle": false', b'"use_pickle": false, "use_pickle": false', "a name occurs twice"),
    ],
)
def test_damaged_descriptions_of_a_program(
    exported: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "bad.pt2"
    shutil.copy(exported, path)
    name = next(name for name in zipfile.ZipFile(path).namelist() if name.endswith("weights_config.json"))
    data = zipfile.ZipFile(path).read(name)
    assert old in data
    with pytest.raises(FormatError, match=message):
        read(rewrite(path, {name: data.replace(old, new, 1)}))


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 1, 8, 8))])
def test_torchscript(tmp_path: Path, make: Callable[[torch.nn.Module], Any]) -> None:
    net = Net().eval()
    path = tmp_path / "net.pt"
    torch.jit.save(make(net), path)
    found = read(path)
    for name, tensor in net.state_dict().items():
        assert same_bits(found[name], to_numpy(tensor)), name
    assert set(found) - set(net.state_dict()) <= {"hidden", "constant"}


@pytest.mark.parametrize("length", [2000, 0.5, 0.9, -1])
def test_cut_archives_are_named_as_such(tmp_path: Path, exported: Path, length: float) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), tmp_path / "script.pt")
    for whole in (exported, tmp_path / "script.pt"):
        data = whole.read_bytes()
        path = tmp_path / "cut"
        path.write_bytes(data[: int(length * len(data)) if 0 < length < 1 else int(length)])
        with pytest.raises(FormatError, match="not a whole zip archive"):
            read(path)


def test_an_archive_cut_behind_an_archive_in_it_is_not_taken_for_that(tmp_path: Path, exported: Path) -> None:
    """The sample inputs of a program are a file of torch.save, with a directory of its own."""
    data = exported.read_bytes()
    inner = zipfile.ZipFile(exported).read("net/data/sample_inputs/model.pt")
    path = tmp_path / "cut.pt2"
    path.write_bytes(data[: data.index(inner) + len(inner)])
    assert zipfile.ZipFile(path).namelist()[0].endswith("/data.pkl")
    with pytest.raises(FormatError, match="not a whole zip archive: its first member starts at byte"):
        read(path)


@pytest.fixture
def sharded(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    tensors = {f"layer.{i}": random_tensor((3, i + 1), "float32", i) for i in range(5)}
    shards = {"pytorch_model-00001-of-00002.bin": ["layer.0", "layer.3"]}
    shards["pytorch_model-00002-of-00002.bin"] = ["layer.1", "layer.2", "layer.4"]
    for number, (shard, names) in enumerate(shards.items()):
        save(tmp_path / shard, {n: tensors[n] for n in names}, _use_new_zipfile_serialization=bool(number))
    places = {name: shard for shard, names in shards.items() for name in names}
    index = {"metadata": {"total_size": 0}, "weight_map": {name: places[name] for name in tensors}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tmp_path, tensors


def test_shards_with_an_index(sharded: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, tensors = sharded
    for path in (folder, folder / "pytorch_model.bin.index.json"):
        assert open_reader(path)[0].name == "torch-sharded"
        assert_same(read(path), tensors)


def test_a_tensor_that_the_index_does_not_name(sharded: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, tensors = sharded
    path = folder / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["layer.3"]
    path.write_text(json.dumps(index))
    assert list(read(folder)) == [name for name in tensors if name != "layer.3"]
    (surplus,) = contents(folder).left_out
    assert surplus.name == "layer.3" and "not in the index" in surplus.reason


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            '"layer.0"',
            '"layer.9"',
            FormatError,
            "'layer.9' is in 'pytorch_model-00001-of-00002.bin', which does not hold it",
        ),
        ("-00001-", "-00007-", FormatError, "missing"),
        ('"pytorch_model-00001', '"../pytorch_model-00001', UnsafeFileError, "not in its folder"),
        ('"pytorch_model-00001', '"/tmp/pytorch_model-00001', UnsafeFileError, "not in its folder"),
        ("-00001-of-00002.bin", ".bin.index.json", FormatError, "missing|not a PyTorch file"),
        ("{", "[", FormatError, "not JSON"),
        ('"layer.0": "', '"layer.0": 3, "x": "', FormatError, "must map tensors to file names"),
    ],
)
def test_indices_that_do_not_fit(
    sharded: tuple[Path, dict[str, torch.Tensor]], old: str, new: str, error: type[FormatError], message: str
) -> None:
    folder, _ = sharded
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(error, match=message):
        read(folder)


def test_a_distributed_checkpoint(tmp_path: Path) -> None:
    state = dict(Net().state_dict())
    optimizer = {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    dcp.save({"model": state, "optimizer": optimizer, "step": 3}, checkpoint_id=tmp_path / "a")
    names_and_arrays(tmp_path / "a", state)
    left_out = {item.name: item.reason for item in contents(tmp_path / "a").left_out}
    assert left_out == {"optimizer": "state of the training, not weights", "step": "not a tensor"}
    dcp.save(state, checkpoint_id=tmp_path / "b")
    names_and_arrays(tmp_path / "b", state)


def test_the_dtypes_and_views_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    base = random_tensor((4, 6), "float16", 1)
    tensors = {"turned": base.t(), "part": base[1:3, ::2], "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    tensors |= {name: random_tensor((3,), name, 2) for name in ("bool", "int64", "bfloat16", "float8_e4m3fn")}
    dcp.save(tensors, checkpoint_id=tmp_path / "a")
    names_and_arrays(tmp_path / "a", tensors)


class _Reversed(StreamTransformExtension):
    """A packing of one's own, as `FileSystemWriter(_extensions=...)` takes it."""

    @staticmethod
    def registry_name() -> str:
        return "stream.reversed"

    @staticmethod
    def from_descriptor(version: str) -> _Reversed:
        return _Reversed()

    def get_descriptor(self) -> str:
        return "stream.reversed/1"

    def transform_to(self, output: IO[bytes]) -> IO[bytes]:
        class Stream(io.BytesIO):
            def close(self) -> None:
                output.write(self.getvalue()[::-1])

        return Stream()

    def transform_from(self, input: IO[bytes]) -> IO[bytes]:
        raise AssertionError("nothing is read with it")


def test_a_distributed_checkpoint_that_an_extension_packed_is_refused(tmp_path: Path) -> None:
    writer = dcp.FileSystemWriter(tmp_path / "a", _extensions=[_Reversed()])
    dcp.save(dict(Net().state_dict()), storage_writer=writer)
    with pytest.raises(
        FormatError, match=r"was packed by the extensions \['stream.reversed/1'\].*save it again without"
    ):
        read(tmp_path / "a")


class TestShardContract(FormatContract):
    format = "torch-sharded"
    file_name = "net.bin.index.json"
    dtypes = tuple(TORCH_DTYPES)


def test_shards_are_written_as_large_as_asked(tmp_path: Path) -> None:
    tensors = {f"w{i}": random_array((100,), "float32", i) for i in range(5)}
    path = tmp_path / "pytorch_model.bin.index.json"
    with FileWriter(path, Contents(specs_of(tensors)), max_shard_bytes=900) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)] + ["pytorch_model.bin.index.json"]
    index = json.loads(path.read_text())
    assert index["metadata"]["total_size"] == 2000 and list(index["weight_map"]) == list(tensors)
    for name, shard in index["weight_map"].items():
        loaded = torch.load(tmp_path / shard, weights_only=True)
        assert same_bits(to_numpy(loaded[name]), tensors[name])
    assert open_reader(path)[0].name == open_reader(tmp_path)[0].name == "torch-sharded"
    with pytest.raises(OutputError, match="must end in"):
        FileWriter(tmp_path / "x.json", Contents(specs_of(tensors)))


@pytest.mark.parametrize("kind", ["export", "script", "shards", "distributed"])
def test_flipped_bits_end_in_data_or_an_error(tmp_path: Path, exported: Path, kind: str) -> None:
    whole, bad = tmp_path / "whole", tmp_path / "bad"
    whole.mkdir()
    tensors = {"w": random_tensor((3, 2), "float32", 1), "b": random_tensor((2,), "bfloat16", 2)}
    if kind == "export":
        shutil.copy(exported, whole / "file")
    elif kind == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), whole / "file")
    elif kind == "shards":
        save(whole / "a.bin", tensors)
        (whole / "x.bin.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "a.bin")}))
    else:
        dcp.save(tensors, checkpoint_id=whole)
    rng, errors = random.Random(3), 0
    for victim in whole.iterdir():
        data = victim.read_bytes()
        for _ in range(120):
            flipped = bytearray(data)
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(whole, bad)
            (bad / victim.name).write_bytes(flipped)
            try:
                read(bad / "file" if kind in ("export", "script") else bad)
            except ConversionError:
                errors += 1
    assert errors > 5
