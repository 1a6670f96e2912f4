"""The book's feed-forward and convolutional nets: each framework into the next, by schema alone and by inference.

A framework writes the file, the command line converts it, the other framework loads it strictly and computes the
same. All weights and statistics are random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import converter
from tests.book.checks import check, every_way
from tests.book.convolutional import CASES, OTHER_SIZES
from tests.book.runs import FLAVOURS, RING, SCHEMA, Runs
from tests.command import ok, run
from tests.parity.sides import SIDES, Case, assert_same


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    folder = tmp_path_factory.mktemp("book")
    return {name: Runs(case, folder) for name, case in CASES.items()}


@pytest.mark.parametrize(("name", "source", "target", "way"), every_way(CASES))
def test_each_framework_into_the_next(runs: dict[str, Runs], name: str, source: str, target: str, way: str) -> None:
    check(runs[name], source, target, way)


@pytest.mark.parametrize("case", OTHER_SIZES, ids=lambda case: case.name)
def test_a_schema_is_of_any_size(case: Case, tmp_path: Path) -> None:
    """Other numbers of stages and of blocks in each."""
    runs = Runs(case, tmp_path)
    for source, target in RING:
        runs.converted(source, target, SCHEMA)


@pytest.mark.parametrize("name", CASES)
def test_around_through_all_frameworks_every_bit_comes_back(
    runs: dict[str, Runs], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the converter wrote it also reads: PyTorch, Keras, Flax, MXNet, neutral, PyTorch."""
    given = path = runs[name].made("torch").path
    way = [*(SIDES[flavour] for flavour in FLAVOURS[1:]), None, SIDES["torch"]]
    framework = "torch"
    for i, side in enumerate(way):
        there, ending = (side.framework, side.ending) if side else ("neutral", ".safetensors")
        result = tmp_path / f"{i}{ending}"
        ok(capsys, f"{framework}->{there}", path, "-o", result, "--schema", name)
        framework, path = there, result
    first, last = torch.load(given, weights_only=True), torch.load(path, weights_only=True)
    counters = {key for key in first if key.endswith("num_batches_tracked")}
    assert first.keys() - counters == last.keys()
    assert all(torch.equal(first[key], last[key]) for key in last)


@pytest.mark.parametrize("name", [name for name in CASES if name != "vgg"])
def test_the_checkpoint_that_the_book_s_keras_wrote(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`save_weights("lenet")` of Keras 2 writes a TensorFlow checkpoint, which has other names than HDF5.

    Those of VGG are not told apart: its head is a Sequential like its blocks, and all children are numbered alike.
    """
    case = CASES[name]
    net = case.random("tf_keras", 1)
    net.save_weights(str(tmp_path / "net"), save_format="tf")
    ok(capsys, "tensorflow->torch", tmp_path / "net", "-o", tmp_path / "net.pt", "--schema", name)
    clone = SIDES["torch"].load(case.random("torch", 3), tmp_path / "net.pt")
    assert_same(case.run("torch", clone), case.run("tf_keras", net))


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_counts(name: str) -> None:
    """Whichever tensor of a net were not as it should be, its outputs would tell."""
    case = CASES[name]
    net = case.random("torch", 1)
    expected = case.run("torch", net)
    other = {key: value.clone() for key, value in case.random("torch", 2).state_dict().items()}
    net = case.random("torch", 1)
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            kept = value.clone()
            value.copy_(other[key])
            with pytest.raises(AssertionError):
                assert_same(case.run("torch", net), expected, 10 * case.tolerance)
            value.copy_(kept)
    np.testing.assert_array_equal(case.run("torch", net), expected)


@pytest.mark.parametrize("target", ["linen", "gluon"])
def test_a_schema_that_counts_fills_and_verifies_live_nets(runs: dict[str, Runs], target: str) -> None:
    made, case, side = runs["vgg"], CASES["vgg"], SIDES[target]
    clone = case.random(target, 3)
    filled = side.back(clone, converter.load_into(side.live(clone), made.made("torch").path, schema="vgg"))
    assert_same(case.run(target, filled), made.made("torch").output)
    given = SIDES["torch"].load(case.random("torch", 3), made.made("torch").path)
    live = (filled.module, filled.variables) if target == "linen" else filled
    assert converter.verify(given, live, case.inputs[0], schema="vgg").ok


def test_a_schema_that_counts_verifies_files(
    runs: dict[str, Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other, result = (
        runs["vgg"].made("torch").path,
        runs["vgg"].made("keras").like,
        tmp_path / "vgg.weights.h5",
    )
    ok(capsys, "torch->tensorflow", source, "-o", result, "--schema", "vgg")
    ok(capsys, "verify", source, result, "--schema", "vgg")
    assert run(capsys, "verify", source, other, "--schema", "vgg").code == 1
