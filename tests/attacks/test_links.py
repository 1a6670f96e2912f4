"""Links in a checkpoint: to its own files and to the blobs of a hub cache, and never to another file of the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import UnsafeFileError
from converter.formats import Contents, by_name, open_reader, open_writer
from tests.attacks.limits import refused
from tests.formats.contract import specs_of


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)


def write(row: str, path: Path, names: list[str], **options: object) -> None:
    tensors = {name: values(seed) for seed, name in enumerate(names)}
    with open_writer(by_name(row), path, Contents(specs_of(tensors)), **options) as writer:
        for name, array in tensors.items():
            writer.write(name, array)


def safetensors(folder: Path) -> str:
    write("safetensors-sharded", folder / "m.safetensors.index.json", ["a.weight", "b.weight"], max_shard_bytes=24)
    return "m.safetensors.index.json"


def torch(folder: Path) -> str:
    write("torch-sharded", folder / "m.bin.index.json", ["a.weight", "b.weight"], max_shard_bytes=24)
    return "m.bin.index.json"


def bundle(folder: Path) -> str:
    write("tf-checkpoint", folder / "m", ["a/kernel/.ATTRIBUTES/VARIABLE_VALUE"])
    return "m.index"


def saved_model(folder: Path) -> str:
    (folder / "variables").mkdir()
    write("tf-checkpoint", folder / "variables/variables", ["a/kernel/.ATTRIBUTES/VARIABLE_VALUE"])
    (folder / "saved_model.pb").write_bytes(b"")
    return ""


def keras_shards(folder: Path) -> str:
    for number in (0, 1):
        write("keras-h5", folder / f"m_0000{number}.weights.h5", [f"layers/dense_{number}/vars/0"])
    shards = {f"/layers/dense_{number}/vars": [f"m_0000{number}.weights.h5"] for number in (0, 1)}
    (folder / "m.weights.json").write_text(json.dumps({"weight_map": shards}))
    return "m.weights.json"


def keras_folder(folder: Path) -> str:
    write("keras-h5", folder / "model.weights.h5", ["layers/dense/vars/0"])
    for name in ("config.json", "metadata.json"):
        (folder / name).write_text("{}")
    return ""


def orbax(folder: Path) -> str:
    write("orbax", folder / "step", ["params/dense/kernel"])
    return "step"


def flax_steps(folder: Path) -> str:
    write("flax-msgpack", folder / "checkpoint_3", ["params/dense/kernel"])
    return ""


FORMATS = (flax_steps, safetensors, torch, bundle, saved_model, keras_shards, keras_folder)
#: Of an Orbax folder, not every file is read; see tests/formats/flax/test_orbax.py for links in it.
IN_THE_HUB = (*FORMATS, orbax)
Make = Callable[[Path], str]


def read(path: Path) -> list[bytes]:
    _, reader = open_reader(path)
    with reader:
        return [np.array(reader.read(spec.name)).tobytes() for spec in reader.contents.specs]


def made(make: Make, folder: Path) -> tuple[Path, list[bytes]]:
    folder.mkdir(parents=True)
    source = folder / make(folder)
    return source, read(source)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pb")


@pytest.mark.parametrize("make", FORMATS)
def test_no_file_of_the_checkpoint_is_a_link_out_of_it(tmp_path: Path, make: Make) -> None:
    source, _ = made(make, tmp_path / "net")
    others = [path for path in files(tmp_path / "net") if path != source]
    assert others
    for number, path in enumerate(others):
        elsewhere = tmp_path / f"elsewhere_{number}"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        with pytest.raises(UnsafeFileError, match="a link that leads out of the folder of its checkpoint"):
            read(source)
        path.unlink()
        elsewhere.rename(path)


@pytest.mark.parametrize("make", IN_THE_HUB)
@pytest.mark.parametrize("inner", ["", "unet"])
def test_the_cache_of_the_hub_is_read(tmp_path: Path, make: Make, inner: str) -> None:
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123abc"
    source, expected = made(make, snapshot / inner)
    (cache / "blobs").mkdir()
    for number, path in enumerate(files(snapshot)):
        path.rename(cache / "blobs" / f"{number:064}")
        up = "../" * len(path.relative_to(cache).parent.parts)
        path.symlink_to(f"{up}blobs/{number:064}")
    assert read(source) == expected
    assert read(source.parent if source.is_file() else source) == expected


@pytest.mark.parametrize("make", FORMATS)
def test_links_within_the_folder_and_to_the_whole_of_it_are_read(tmp_path: Path, make: Make) -> None:
    source, expected = made(make, tmp_path / "net")
    for path in files(tmp_path / "net"):
        kept = tmp_path / "net" / "kept"
        kept.mkdir(exist_ok=True)
        shutil.move(path, kept / path.name)
        path.symlink_to(kept / path.name)
    (tmp_path / "link").symlink_to(tmp_path / "net")
    assert read(tmp_path / "link" / source.relative_to(tmp_path / "net")) == expected


def test_a_source_that_is_a_link_is_read(tmp_path: Path) -> None:
    write("keras-h5", tmp_path / "m.weights.h5", ["layers/dense/vars/0"])
    (tmp_path / "else").mkdir()
    (tmp_path / "else/link.weights.h5").symlink_to(tmp_path / "m.weights.h5")
    assert read(tmp_path / "else/link.weights.h5") == read(tmp_path / "m.weights.h5")


def test_no_byte_of_another_file_reaches_the_output(tmp_path: Path) -> None:
    source, _ = made(bundle, tmp_path / "net")
    (tmp_path / "secret").write_bytes(b"password" * 100)
    data = tmp_path / "net/m.data-00000-of-00001"
    data.unlink()
    data.symlink_to("../secret")
    words = ("convert", "tf->neutral", source, "--no-checksums", "-o", "m.safetensors")
    assert "leads out of the folder" in refused(*words, cwd=tmp_path)
    assert not (tmp_path / "m.safetensors").exists()
