"""What a user sees: the table, and one clear sentence for everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converter.core.tensors import TensorSpec
from converter.formats import Contents, by_name, detect, open_writer
from tests.command import ok, refused, run
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "mlp.params"


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mlp.params"))


def write(path: Path, form: str, tensors: dict[str, np.ndarray]) -> Path:
    specs = tuple(TensorSpec(name, array.shape, array.dtype) for name, array in tensors.items())
    with open_writer(by_name(form), path, Contents(specs)) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return path


def flax_clone(path: Path, inputs: int = 20, hidden: int = 256, names: tuple[str, str] = ("hidden", "output")) -> Path:
    rng = np.random.default_rng(0)
    first, second = names
    shapes = {
        f"params/{first}/bias": (hidden,),
        f"params/{first}/kernel": (inputs, hidden),
        f"params/{second}/bias": (10,),
        f"params/{second}/kernel": (hidden, 10),
    }
    return write(path, "flax-msgpack", {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()})


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_first_command_of_the_readme(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = ok(capsys, "torch->flax", mlp)
    assert (mlp.parent / "mlp.msgpack").is_file()
    lines = printed.splitlines()
    assert lines[0] == f"{mlp} (PyTorch file)"
    assert lines[2].split() == ["layer", "kind", "source", "target", "done", "paired", "by"]
    assert lines[3].split("  ")[0] == "hidden" and "linear" in lines[3]
    assert "hidden.weight (256, 20)" in lines[3] and "params/hidden/kernel (20, 256)" in lines[3]
    assert "transposed, renamed" in lines[3] and lines[3].endswith("same name")
    assert lines[-1] == f"4 tensors written to {mlp.parent / 'mlp.msgpack'} (Flax msgpack)"


@pytest.mark.parametrize("name", ["mlp.h5", "mlp.pt", "mlp.keras"])
def test_an_extension_of_another_framework_is_refused(mlp: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    output = mlp.parent / "other" / name
    output.parent.mkdir()
    assert f"{name}: this is the extension of the format " in refused(capsys, "torch->flax", mlp, "-o", output)
    ok(capsys, "torch->flax", mlp, "-o", output, "--format", "flax-msgpack")
    assert detect(output).name == "flax-msgpack"


def test_the_extension_of_the_book_fits_every_framework(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = mlp.parent / "other" / "mlp.params"
    output.parent.mkdir()
    for name, form in {"flax": "flax-msgpack", "tensorflow": "keras-h5", "mxnet": "mxnet"}.items():
        ok(capsys, f"torch->{name}", mlp, "-o", output, "--force")
        assert detect(output).name == form


def test_a_neutral_file_without_a_layer_is_one_again(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = mlp.with_name("whole.safetensors"), mlp.with_name("part.safetensors")
    ok(capsys, "torch->neutral", mlp, "-o", whole)
    ok(capsys, "neutral->neutral", whole, "--ignore", "output", "-o", part)
    assert "output" not in ok(capsys, "inspect", part)
    ok(capsys, "neutral->torch", part, "-o", mlp.with_name("part.pt"))


def test_json_says_the_same_to_programs(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(ok(capsys, "torch->flax", mlp, "--json"))
    assert report["output"]["path"] == str(mlp.parent / "mlp.msgpack")
    by_target = {entry["target"]["name"]: entry for entry in report["tensors"]}
    assert by_target["params/hidden/kernel"] == {
        "layer": "hidden",
        "kind": "linear",
        "sources": [{"name": "hidden.weight", "shape": [256, 20], "dtype": "float32"}],
        "target": {"name": "params/hidden/kernel", "shape": [20, 256], "dtype": "float32"},
        "done": ["transposed"],
        "reason": "same name",
        "likely": False,
    }
    assert report["left_out"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["torch->flax"],
        ["torch-to-flax"],
        ["torch:flax"],
        ["pytorch->jax"],
        ["--from", "torch", "--to", "flax"],
        ["convert", "torch->flax"],
    ],
)
def test_every_way_to_say_the_direction(mlp: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    ok(capsys, *words, mlp)
    assert (mlp.parent / "mlp.msgpack").is_file()


def test_the_extension_or_the_format_option_chooses_the_format(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "(NumPy archive)" in ok(capsys, "torch->flax", mlp, "-o", mlp.parent / "a.npz")
    assert "(safetensors)" in ok(capsys, "torch->flax", mlp, "-o", mlp.parent / "b", "--format", "safetensors")
    assert "(TensorFlow checkpoint)" in ok(capsys, "torch->tf", mlp, "-o", mlp.parent / "c.ckpt")
    assert "before 1.6" in ok(capsys, "torch->torch", mlp, "-o", mlp.parent / "d.legacy.pt")
    assert "(Keras 2 weights)" in ok(capsys, "torch->tf", mlp, "-o", mlp.parent / "e.h5")
    assert "(Keras 3 weights)" in ok(capsys, "torch->tf", mlp, "-o", mlp.parent / "e.weights.h5")
    message = refused(capsys, "torch->flax", mlp, "--format", "mxnet")
    assert "Flax has no format 'mxnet' that can be written. There are: " in message and "flax-msgpack" in message


def test_the_default_name_never_takes_the_place_of_the_source(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = mlp.read_bytes()
    ok(capsys, "torch->mxnet", mlp)
    assert mlp.read_bytes() == before and (mlp.parent / "mlp.mxnet.params").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Usage"),
        (["torch->flux", "x"], "unknown framework 'flux'. Did you mean 'flax'?"),
        (["torch->caffe", "x"], "unknown framework 'caffe'"),
        (["torchflax", "x"], "'torchflax' is not a direction. Say it like 'torch->flax'"),
        (["torch->flax"], "expected 'FROM->TO' and one FILE"),
        (["torch->flax", "a", "b"], "expected 'FROM->TO' and one FILE, got 3 words"),
        (["--from", "torch", "x"], "--from and --to go together"),
        (["torch->flax", "x", "--map", "hidden"], "is not of the form SOURCE=TARGET"),
        (["torch->flax", "x", "--colour"], "No such option"),
    ],
)  # fmt: skip
def test_wrong_usage_has_code_2(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    result = run(capsys, *words)
    assert result.code == 2
    assert message in result.err + result.out and "Traceback" not in result.err


def test_an_unquoted_arrow_is_explained(mlp: Path) -> None:
    """The shell turns ``torch->flax`` into the word ``torch-`` and a file ``flax``."""
    command = f"{sys.executable} -m converter torch->flax mlp.params"
    done = subprocess.run(command, shell=True, cwd=mlp.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'>' is special to the shell" in done.stderr
    assert "convert 'torch->TO' mlp.params" in done.stderr
    assert (mlp.parent / "flax").read_bytes() == b""


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing.pt: no such file or folder" in refused(capsys, "torch->flax", tmp_path / "nothing.pt")


def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.params").touch()
    assert "empty.params: the file is empty" in refused(capsys, "torch->flax", tmp_path / "empty.params")
    (tmp_path / "notes.txt").write_text("Dear diary, " * 100)
    assert "notes.txt: not a weight file of any known format" in refused(capsys, "torch->flax", tmp_path / "notes.txt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file(mlp: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    data = mlp.read_bytes()
    mlp.write_bytes(data[: int(len(data) * share)])
    assert str(mlp) in refused(capsys, "torch->flax", mlp)
    assert sorted(files(mlp.parent)) == ["mlp.params"]


def test_a_file_of_another_framework_is_named(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "mxnet->flax", mlp)
    assert "not a file of MXNet: its format is PyTorch file. It looks like PyTorch; say 'torch' instead." in message
    ok(capsys, "torch->flax", mlp, "-o", mlp.parent / "flax.safetensors")
    message = refused(capsys, "torch->mxnet", mlp.parent / "flax.safetensors")
    assert "its tensors have other names. It looks like Flax; say 'flax' instead." in message
    ok(capsys, "torch->neutral", mlp)
    assert "say 'neutral' instead." in refused(capsys, "torch->mxnet", mlp.parent / "mlp.safetensors")


def test_a_clone_of_another_size(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone = flax_clone(mlp.parent / "clone.msgpack", inputs=30)
    assert refused(capsys, "torch->flax", mlp, "--like", clone) == (
        f"error: {mlp}: 'hidden.weight' has shape (256, 20); the clone's 'params/hidden/kernel' is (30, 256), "
        "which needs (256, 30). Is the input size of the clone 30?\n"
    )
    assert not (mlp.parent / "mlp.msgpack").exists()


def test_two_layers_that_cannot_be_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    square = {
        f"{n}.{r}": rng.normal(size=s).astype(np.float32) for n in "ab" for r, s in (("weight", (4, 4)), ("bias", (4,)))
    }
    source = write(tmp_path / "square.pt", "torch", square)
    clone = write(
        tmp_path / "clone.msgpack",
        "flax-msgpack",
        {f"params/{n}/{r}": np.ones(s, np.float32) for n in "cd" for r, s in (("kernel", (4, 4)), ("bias", (4,)))},
    )
    message = refused(capsys, "torch->flax", source, "--like", clone)
    assert "'c', 'd' of the clone could each be 'a', 'b'. Say --map a=c or --map b=c." in message
    ok(capsys, "torch->flax", source, "--like", clone, "--map", "a=d")


def test_a_layer_of_no_known_kind_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    source = write(tmp_path / "rnn.pt", "torch", {"rnn.weight_ih_l0": rng.normal(size=(12, 4)).astype(np.float32)})
    message = refused(capsys, "torch->flax", source)
    assert "'rnn' (rnn.weight_ih_l0 (12, 4)) is a layer of an unknown kind" in message
    ok(capsys, "torch->torch", source, "-o", tmp_path / "copy.safetensors")


def test_an_output_that_exists_needs_force(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = mlp.parent / "mlp.msgpack"
    result.write_text("precious")
    assert f"{result}: exists already; choose another path. --force replaces it." in refused(capsys, "torch->flax", mlp)
    assert result.read_text() == "precious"
    ok(capsys, "torch->flax", mlp, "--force")
    assert result.read_bytes() != b"precious"
    assert "this is the source itself" in refused(capsys, "torch->torch", mlp, "-o", mlp, "--force")


@pytest.mark.parametrize("share", ["missing", "read-only"])
def test_a_folder_that_cannot_take_the_output(
    mlp: Path, capsys: pytest.CaptureFixture[str], share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mlp.parent / "out"
    if share == "read-only":
        folder.mkdir(mode=0o500)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # root may write everywhere
    before = files(mlp.parent)
    message = refused(capsys, "torch->flax", mlp, "-o", folder / "mlp.msgpack")
    assert ("does not exist" if share == "missing" else "cannot be written to") in message
    assert files(mlp.parent) == before


def test_a_disk_that_fills_up_leaves_nothing(
    mlp: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = files(mlp.parent)
    assert "cannot be written: No space left on device" in refused(capsys, "torch->flax", mlp)
    assert files(mlp.parent) == before


def test_strict_accepts_names_alone(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone = flax_clone(mlp.parent / "clone.msgpack", names=("first", "second"))
    assert "rests on: only one with this shape" in refused(capsys, "torch->flax", mlp, "--like", clone, "--strict")
    ok(capsys, "torch->flax", mlp, "--like", clone, "--strict", "--map", "hidden=first", "--map", "output=second")


def test_the_clone_s_dtype_is_taken_and_said(mlp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {n: np.zeros(s, np.float16) for n, s in {"params/hidden/kernel": (20, 256), "params/hidden/bias": (256,),
            "params/output/kernel": (256, 10), "params/output/bias": (10,)}.items()}  # fmt: skip
    clone = write(mlp.parent / "clone.msgpack", "flax-msgpack", half)
    assert "transposed, cast float32 to float16" in ok(capsys, "torch->flax", mlp, "--like", clone)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'FROM->TO' FILE" in ok(capsys, "--help")
    assert "--like" in ok(capsys, "convert", "--help")
    assert "converter, version" in ok(capsys, "--version")


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    shown = ok(capsys, "torch->flax", tmp_path / "mlp.params", "--dry-run")
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.params"]
    assert "4 tensors would be written to" in shown
    assert shown.replace("would be written", "written") == ok(capsys, "torch->flax", tmp_path / "mlp.params")
    report = json.loads(
        ok(capsys, "torch->flax", tmp_path / "mlp.params", "--dry-run", "--json", "-o", tmp_path / "x.msgpack")
    )
    assert report["output"]["written"] is False and report["tensors"][0]["reason"] == "same name"


def test_ignored_layers_are_listed_as_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    shown = ok(capsys, "torch->flax", tmp_path / "mlp.params", "--ignore", "out*")
    assert "left out: output.weight (ignored: out*)" in shown and "2 tensors written" in shown
    error = refused(capsys, "torch->flax", tmp_path / "mlp.params", "--ignore", "head", "--force")
    assert "--ignore head: the source has no layer 'head'. It has 'hidden', 'output'." in error
