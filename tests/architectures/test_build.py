"""Y_clone == Y: every architecture of the book's chapters 5 to 8 in all four frameworks, from each of them.

The book's net, of random weights and statistics, is saved by its framework; `convert --schema` makes the neutral file,
which holds its architecture; `build` makes of that file alone a net in each framework, and it computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.architectures.family import family_of
from converter.errors import ConversionError
from converter.schema.loader import load_schema, shipped
from tests.architectures.nets import FRAMEWORKS, output, written
from tests.book.classifier import BookCase
from tests.book.convolutional import CASES, OTHER_SIZES
from tests.book.runs import FLAVOURS, RING, Runs
from tests.command import ok, refused
from tests.parity.sides import SIDES, Case, Linen, assert_same


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    folder = tmp_path_factory.mktemp("architectures")
    return {name: Runs(case, folder) for name, case in CASES.items()}


@pytest.mark.parametrize(("name", "source"), zip(CASES, cycle(FLAVOURS), strict=False))
def test_a_neutral_file_is_a_net_in_every_framework(
    runs: dict[str, Runs], name: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, made = CASES[name], runs[name].made(source)
    neutral = tmp_path / f"{name}.safetensors"
    ok(capsys, f"{SIDES[source].framework}->neutral", made.path, "-o", neutral, "--schema", name)
    for flavour, framework in FRAMEWORKS:
        assert_same(output(case, flavour, converter.build(neutral, framework)), made.output, case.tolerance)


@pytest.mark.parametrize(
    ("name", "source", "target"), [(name, *pair) for name, pair in zip(CASES, cycle(RING), strict=False)]
)
def test_the_written_code_loads_strictly_what_convert_writes(
    runs: dict[str, Runs], name: str, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, made = CASES[name], runs[name].made(source)
    framework, result = SIDES[target].framework, tmp_path / f"net{SIDES[target].ending}"
    ok(capsys, f"{SIDES[source].framework}->{framework}", made.path, "-o", result, "--schema", name)
    sizes = ",".join(map(str, case.inputs[0].shape[1:]))
    code = ok(capsys, "scaffold", made.path, "--schema", name, "--to", framework, "--input", sizes)
    net = SIDES[target].load(written(case, target, code, tmp_path), result)
    assert_same(output(case, target, net), made.output, case.tolerance)


@pytest.mark.parametrize("case", OTHER_SIZES, ids=lambda case: case.name)
def test_a_schema_builds_nets_of_any_size(case: Case) -> None:
    """Other numbers of stages and blocks than the schema itself has; from a live net."""
    net = case.random("torch", 1)
    for flavour, framework in FRAMEWORKS:
        assert_same(output(case, flavour, converter.build(case.name, framework, weights=net)), case.run("torch", net))


#: The table of shipped architectures, a row for each: the input of the schema, and other outputs for some layers, so
#: that the net is smaller than in the book.
ROWS: Mapping[str, tuple[tuple[int, ...], Mapping[str, int]]] = {
    "alexnet": ((1, 224, 224), {"fc1": 32, "fc2": 24, "output": 7}),
    "densenet": ((1, 96, 96), {"output": 7}),
    "googlenet": ((1, 96, 96), {"output": 7}),
    "lenet": ((1, 28, 28), {"output": 7}),
    "mlp": ((20,), {"output": 7}),
    "mlp_concise": ((1, 28, 28), {"output": 7}),
    "nin": ((1, 224, 224), {"block4.pointwise2": 7}),
    "resnet": ((1, 96, 96), {"output": 7}),
    "resnext": ((1, 96, 96), {"output": 7}),
    "softmax_regression": ((1, 28, 28), {"output": 7}),
    "vgg": ((1, 224, 224), {"fc1": 32, "fc2": 24, "output": 7}),
}


def test_the_table_has_every_shipped_architecture() -> None:
    assert set(ROWS) == {name for name in shipped() if family_of(load_schema(name)) is not None}


@pytest.mark.parametrize(("name", "target"), zip(ROWS, cycle(["keras", "linen", "gluon"]), strict=False))
def test_a_schema_alone_is_a_net(name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights go from live net to live net, and by a file with the names of the schema."""
    shape, sizes = ROWS[name]
    net = converter.build(name, "torch", sizes=sizes)
    assert net.training
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    case = BookCase(name, {}, (x,), spatial=x.ndim > 2)
    expected = output(case, "torch", case.anew("torch", net.eval(), 1))
    assert expected.shape == (1, 7)
    framework, source, result = SIDES[target].framework, tmp_path / "net.pt", tmp_path / f"net{SIDES[target].ending}"
    clone = converter.build(name, framework, net)
    assert_same(output(case, target, clone), expected)
    SIDES["torch"].save(net, source)
    ok(capsys, f"torch->{framework}", source, "-o", result, "--schema", name)
    loaded = SIDES[target].load(Linen(*clone) if isinstance(clone, tuple) else clone, result)
    assert_same(output(case, target, loaded), expected)


@pytest.mark.parametrize(("flavour", "framework"), FRAMEWORKS)
def test_a_net_without_weights_has_fresh_ones(flavour: str, framework: str) -> None:
    case = Case("lenet", {}, (np.random.default_rng(0).normal(size=(2, 1, 28, 28)).astype(np.float32),), spatial=True)
    first, second = (output(case, flavour, converter.build("lenet", framework, sizes={"output": 3})) for _ in range(2))
    assert first.shape == (2, 3) and np.isfinite(first).all()
    assert (flavour == "linen") == np.array_equal(first, second)  # that of one key


@pytest.mark.parametrize("name", ["bert", "deep_gru", "gru", "lstm", "rnn", "seq2seq", "transformer", "vit"])
def test_other_schemas_have_no_architecture(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConversionError, match=f"schema '{name}' has no architecture"):
        converter.build(name, "torch")
    assert f"schema '{name}' has no architecture" in refused(capsys, "scaffold", name, "--to", "flax")


def test_a_file_without_an_architecture_names_the_ways_out(
    runs: dict[str, Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = runs["mlp"].made("torch")
    assert "a file of PyTorch holds no architecture" in refused(capsys, "scaffold", made.path, "--to", "flax")
    ok(capsys, "torch->neutral", made.path, "-o", tmp_path / "mlp.safetensors")
    message = refused(capsys, "scaffold", tmp_path / "mlp.safetensors", "--to", "flax")
    assert "holds weights without an architecture" in message and "--schema" in message
    message = refused(capsys, "scaffold", made.path, "--schema", "bert", "--to", "flax")
    assert "schema 'bert' has no architecture" in message


def test_weights_of_another_net_are_refused(runs: dict[str, Runs]) -> None:
    with pytest.raises(ConversionError, match=r"'conv1' .* is not in the source"):
        converter.build("lenet", "torch", weights=runs["mlp"].made("torch").path)
    with pytest.raises(ConversionError, match="the input has another size"):
        converter.build("lenet", "torch", weights=runs["lenet"].made("torch").path, input=(1, 32, 32))
    with pytest.raises(ConversionError, match="sizes: only a net without weights can have other sizes"):
        converter.build("lenet", "torch", weights=runs["lenet"].made("torch").path, sizes={"output": 3})
    with pytest.raises(ConversionError, match="the architecture has no layer 'outptu'"):
        converter.build("lenet", "torch", sizes={"outptu": 3})
    with pytest.raises(ConversionError, match="neutral is not a framework"):
        converter.build("lenet", "neutral")


def test_an_architecture_goes_from_neutral_file_to_neutral_file(
    runs: dict[str, Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Renamed layers are renamed in it; where it does not fit any more, it is left out, and the report says so."""
    case, made = CASES["lenet"], runs["lenet"].made("torch")
    first, second, third = (tmp_path / f"{i}.safetensors" for i in range(3))
    ok(capsys, "torch->neutral", made.path, "-o", first, "--schema", "lenet")
    ok(capsys, "neutral->neutral", first, "-o", second, "--map", "conv1=stem")
    assert_same(output(case, "linen", converter.build(second, "flax")), made.output)
    report = converter.convert("neutral->neutral", first, third, ignore=["conv1"], map={"conv2": "stem"})
    assert any(item.name == "the architecture" and "conv1" in item.reason for item in report.plan.left_out)
    with pytest.raises(ConversionError, match="weights without an architecture"):
        converter.build(third, "flax")
