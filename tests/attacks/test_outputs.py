"""Commands that would destroy: outputs over what is read, and over folders that hold anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.formats import by_name, open_writer
from tests import command


class Shell:
    """The command line in the folder of the test."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def ok(self, *words: object) -> str:
        return command.ok(self._capsys, *words)

    def refused(self, *words: object) -> str:
        return command.refused(self._capsys, *words)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)


NAMES = ("first.weight", "first.bias", "second.weight", "second.bias")


def checkpoint(path: Path, form: str = "safetensors", parts: str = ".") -> Path:
    """A small net of linear layers in that format, in shards of one tensor each where there are any."""
    random = np.random.default_rng(1)
    tensors = {name.replace(".", parts): random.normal(size=(3, 3) if "weight" in name else 3) for name in NAMES}
    specs = tuple(TensorSpec(name, array.shape, array.dtype) for name, array in tensors.items())
    with open_writer(by_name(form), path, Contents(specs), 1 if form.endswith("-sharded") else None) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return path


def state(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# -- a folder is replaced by a checkpoint only where it is one --------------------------------------------------------


def photos(folder: Path) -> None:
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"irreplaceable")


def beside_metadata(folder: Path) -> None:
    checkpoint(folder, "orbax", "/")
    (folder / "thesis.tex").write_text("years of work")


def inside_an_array(folder: Path) -> None:
    checkpoint(folder, "orbax", "/")
    (folder / "first.weight" / "notes.txt").write_text("years of work")


def under_a_name_of_orbax(folder: Path) -> None:
    checkpoint(folder, "orbax", "/")
    (folder / "d").mkdir()
    (folder / "d" / "thesis.tex").write_text("years of work")


def steps_of_a_run(folder: Path) -> None:
    for step in ("100", "200"):
        folder.mkdir(exist_ok=True)
        checkpoint(folder / step, "orbax", "/")


def several_items(folder: Path) -> None:
    folder.mkdir()
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    checkpoint(folder / "params", "orbax", "/")
    checkpoint(folder / "opt_state", "orbax", "/")


def empty_folder_in_it(folder: Path) -> None:
    checkpoint(folder, "orbax", "/")
    (folder / "mount_point").mkdir()


def a_link_in_it(folder: Path) -> None:
    checkpoint(folder, "orbax", "/")
    (folder / "checkpoint").symlink_to("/etc/hostname")


def only_a_marker(folder: Path) -> None:
    photos(folder)
    (folder / "_METADATA").write_text("{}")


def a_file(folder: Path) -> None:
    folder.write_text("years of work")


@pytest.mark.parametrize(
    ("filled", "named"),
    [
        (photos, "'photo.jpg'"),
        (beside_metadata, "'thesis.tex'"),
        (inside_an_array, "'first.weight/notes.txt'"),
        (under_a_name_of_orbax, "'d/thesis.tex'"),
        (steps_of_a_run, "'100/"),
        (several_items, "'opt_state"),
        (empty_folder_in_it, "'mount_point'"),
        (a_link_in_it, "'checkpoint'"),
        (only_a_marker, "'photo.jpg'"),
        (a_file, "this is a file"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_not_replaced(
    shell: Shell, tmp_path: Path, filled: object, named: str
) -> None:
    checkpoint(tmp_path / "net.safetensors")
    filled(tmp_path / "out")  # type: ignore[operator]
    before = state(tmp_path)
    for force in ((), ("--force",)):
        said = shell.refused("torch->flax", "net.safetensors", "-o", "out", "--format", "orbax", *force)
        assert named in said, said
        assert "choose another path" in said and "replaces it" not in said
    assert state(tmp_path) == before


@pytest.mark.parametrize("sample", ["ours", "devices-ocdbt", "devices-zarr3", "processes-small-chunks"])
def test_a_checkpoint_is_replaced(shell: Shell, tmp_path: Path, sample: str) -> None:
    import shutil

    from tests.places import ROOT

    checkpoint(tmp_path / "net.safetensors")
    if sample == "ours":
        checkpoint(tmp_path / "out", "orbax", "/")
    else:
        shutil.copytree(ROOT / "tests/samples/jax/orbax-0.12.8" / sample, tmp_path / "out")
    words = ("torch->flax", "net.safetensors", "-o", "out", "--format", "orbax")
    assert "--force replaces it" in shell.refused(*words)
    shell.ok(*words, "--force")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        f"params.{layer}.{leaf}" for layer in ("first", "second") for leaf in ("kernel", "bias")
    }
    assert not list(tmp_path.glob(".*"))


def test_an_empty_folder_is_replaced(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    (tmp_path / "out").mkdir()
    shell.ok("torch->flax", "net.safetensors", "-o", "out", "--format", "orbax", "--force")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("torch->neutral", "-o", "out.safetensors"), "out.safetensors"),
        (("torch->torch", "-o", "out.pt"), "out.pt"),
        (("torch->tensorflow", "-o", "out.weights.h5"), "out.weights.h5"),
        (("torch->tensorflow", "-o", "out", "--format", "tf-checkpoint"), "out.index"),
        (("torch->tensorflow", "-o", "out", "--format", "tf-checkpoint"), "out.data-00000-of-00001"),
        (("torch->torch", "-o", "out.bin.index.json", "--max-shard-size", "1"), "out-00002-of-00004.bin"),
        (("torch->torch", "-o", "out.bin.index.json", "--max-shard-size", "1"), "out.bin.index.json"),
    ],
)
def test_a_folder_is_not_replaced_by_a_file(shell: Shell, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    checkpoint(tmp_path / "net.safetensors")
    photos(tmp_path / name)
    before = state(tmp_path)
    said = shell.refused(words[0], "net.safetensors", *words[1:], "--force")
    assert f"{name}: this is a folder" in said, said
    assert state(tmp_path) == before


def test_a_folder_called_like_ours_is_not_removed(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    photos(tmp_path / ".out.bin.index.json.resume")
    before = state(tmp_path)
    words = ("-o", "out.bin.index.json", "--max-shard-size", "1", "--resume")
    assert "photo.jpg" in shell.refused("torch->torch", "net.safetensors", *words)
    assert state(tmp_path) == before


def test_a_certificate_that_cannot_name_its_files_is_refused_before(shell: Shell, tmp_path: Path) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/net\xff.safetensors")
    checkpoint(Path(source))
    said = shell.refused("torch->torch", source, "-o", "out.pt", "--certificate", "certificate.json")
    assert "no text (UTF-8)" in said and "\\udcff" in said, said
    assert len(list(tmp_path.iterdir())) == 1
    shell.ok("torch->torch", source, "-o", "out.pt")


# -- what is read is not written over ---------------------------------------------------------------------------------


def sharded(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return checkpoint(tmp_path / "model" / "net.safetensors.index.json", "safetensors-sharded")


def hub_cache(tmp_path: Path) -> Path:
    """As the Hugging Face hub keeps it: links into a folder of blobs."""
    index, blobs = sharded(tmp_path), tmp_path / "cache" / "blobs"
    snapshot = tmp_path / "cache" / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(index.parent.iterdir())):
        file.rename(blobs / f"blob{number}")
        (snapshot / file.name).symlink_to(blobs / f"blob{number}")
    index.parent.rmdir()
    return snapshot / index.name


SHARD = "net-00002-of-00004.safetensors"


@pytest.mark.parametrize("source", ["model", "model/net.safetensors.index.json"])
@pytest.mark.parametrize(
    "words",
    [
        ("torch->neutral", "-o", f"model/{SHARD}"),
        ("torch->neutral", "-o", f"elsewhere/../model/{SHARD}"),
        ("torch->neutral", "-o", "elsewhere/link.safetensors"),
        ("torch->neutral", "-o", "elsewhere/hard.safetensors"),
        ("torch->neutral", "-o", f"elsewhere/folder/{SHARD}"),
        ("torch->torch", "-o", f"model/{SHARD}", "--format", "torch"),
        ("torch->neutral", "-o", "model/net.safetensors.index.json"),
        ("torch->flax", "-o", "model", "--format", "orbax"),
        ("torch->flax", "-o", "elsewhere/folder", "--format", "orbax"),
        ("torch->torch", "-o", "fine.pt", "--certificate", f"model/{SHARD}"),
        ("torch->torch", "-o", "fine.pt", "--certificate", "model/net.safetensors.index.json"),
        ("torch->torch", "-o", "fine.pt", "--certificate", "elsewhere/hard.safetensors"),
    ],
)
def test_no_part_of_the_source_is_replaced(shell: Shell, tmp_path: Path, source: str, words: tuple[str, ...]) -> None:
    model = sharded(tmp_path).parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.safetensors").symlink_to(model / SHARD)
    os.link(model / SHARD, elsewhere / "hard.safetensors")
    (elsewhere / "folder").symlink_to(model)
    before = state(tmp_path)
    said = shell.refused(words[0], source, *words[1:], "--force")
    assert "the source" in said, said
    assert state(tmp_path) == before


def test_a_blob_of_the_hub_is_not_replaced(shell: Shell, tmp_path: Path) -> None:
    source = hub_cache(tmp_path)
    (blob,) = [link.resolve() for link in source.parent.iterdir() if link.name == SHARD]
    before = state(tmp_path)
    for target in (blob, source.with_name(SHARD)):
        words = ("-o", target, "--format", "safetensors", "--force")
        assert "a part of the source" in shell.refused("torch->neutral", source, *words)
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("-o", "net.orbax/_METADATA"),
        ("-o", "net.orbax/first.weight/.zarray"),
        ("-o", "net.orbax/new.safetensors"),
        ("-o", "inside.safetensors"),
        ("-o", "fine.safetensors", "--certificate", "net.orbax/_CHECKPOINT_METADATA"),
        ("-o", "fine.safetensors", "--certificate", "net.orbax/certificate.json"),
    ],
)
def test_nothing_is_written_into_a_source_that_is_a_folder(
    shell: Shell, tmp_path: Path, words: tuple[str, ...]
) -> None:
    checkpoint(tmp_path / "net.orbax", "orbax", "/")
    os.link(tmp_path / "net.orbax/first.weight/.zarray", tmp_path / "inside.safetensors")
    before = state(tmp_path)
    said = shell.refused("flax->neutral", "net.orbax", *words, "--format", "safetensors", "--force")
    assert "the source" in said, said
    assert state(tmp_path) == before


def test_a_folder_that_holds_the_source_is_not_replaced(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    source = checkpoint(tmp_path / "out" / "checkpoint", "flax-msgpack", "/")
    before = state(tmp_path)
    said = shell.refused("flax->flax", source, "-o", "out", "--format", "orbax", "--force")
    assert "the source" in said and "is inside of this" in said
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("source", "form", "parts", "target"),
    [
        ("net.ckpt", "tf-checkpoint", "/", "net.ckpt.data-00000-of-00001"),
        ("net.ckpt", "tf-checkpoint", "/", "net.ckpt.index"),
        ("net.pt", "torch", ".", "net.pt"),
        ("net.npz", "npz", "/", "net.npz"),
    ],
)
def test_each_file_that_a_reader_opens_is_kept(
    shell: Shell, tmp_path: Path, source: str, form: str, parts: str, target: str
) -> None:
    checkpoint(tmp_path / source, form, parts)
    before = state(tmp_path)
    direction = f"{'torch' if parts == '.' else 'tensorflow'}->neutral"
    for words in (("-o", target), ("-o", "fine.safetensors", "--certificate", target)):
        said = shell.refused(direction, source, *words, "--format", "safetensors", "--force")
        assert "the source" in said, said
    assert state(tmp_path) == before


def test_the_file_of_names_is_kept(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    checkpoint(tmp_path / "names.safetensors")
    before = state(tmp_path)
    words = ("--names-from", "names.safetensors", "--force")
    for output in (("-o", "names.safetensors"), ("-o", "x.safetensors", "--certificate", "names.safetensors")):
        assert "the source" in shell.refused("torch->neutral", "net.safetensors", *output, *words)
    assert state(tmp_path) == before


@pytest.mark.parametrize("certificate", ["clone.pt", "out.pt", "hard.pt", "out", "new.orbax/certificate.json"])
def test_a_certificate_replaces_neither_the_clone_nor_the_output(
    shell: Shell, tmp_path: Path, certificate: str
) -> None:
    for name in ("net", "clone", "out"):
        checkpoint(tmp_path / f"{name}.pt", "torch")
    os.link(tmp_path / "clone.pt", tmp_path / "hard.pt")
    photos(tmp_path / "out")
    before = state(tmp_path)
    output = ("-o", "out.pt", "--like", "clone.pt", "--force")
    direction = "torch->torch"
    if "orbax" in certificate:
        direction, output = "torch->flax", ("-o", "new.orbax")
    said = shell.refused(direction, "net.pt", *output, "--certificate", certificate)
    assert certificate in said
    assert state(tmp_path) == before


def test_a_certificate_does_not_replace_a_shard_of_the_output(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.pt", "torch")
    words = ("torch->torch", "net.pt", "-o", "out.bin.index.json", "--max-shard-size", "1")
    said = shell.refused(*words, "--certificate", "out-00002-of-00004.bin")
    assert "the output" in said
    assert not list(tmp_path.glob("out*"))


def test_another_format_beside_the_shards_of_the_source(shell: Shell, tmp_path: Path) -> None:
    """Whose names differ in the extension alone, so that nothing is replaced."""
    model = sharded(tmp_path).parent
    before = state(model)
    words = ("-o", "model/net.bin.index.json", "--max-shard-size", "1")
    shell.ok("torch->torch", "model/net.safetensors.index.json", *words)
    assert before.items() <= state(model).items()
    assert json.loads((model / "net.bin.index.json").read_text())["weight_map"]
