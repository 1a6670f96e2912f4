"""The recurrent nets and transformers of the book, each framework into the next: by a shipped schema, by a clone.

A net is made once for each framework, and gets other weights before every load: what a file does not bring is found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.book import sequences, transformers
from tests.book.checks import check, every_way
from tests.book.runs import Runs
from tests.book.sequence_nets import in_keras
from tests.book.sequence_nets.between import Sizes
from tests.book.sequence_nets.case import book_case
from tests.command import ok
from tests.parity.sides import SIDES, assert_same

CASES = {**sequences.CASES, **transformers.CASES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runs]:
    folder = tmp_path_factory.mktemp("book")
    return {name: Runs(case, folder) for name, case in CASES.items()}


@pytest.mark.parametrize(("name", "source", "target", "way"), every_way(CASES))
def test_each_framework_into_the_next(runs: dict[str, Runs], name: str, source: str, target: str, way: str) -> None:
    check(runs[name], source, target, way)


@pytest.mark.parametrize(
    ("name", "blocks"), [("deep_gru", 1), ("deep_gru", 3), ("seq2seq", 1), ("seq2seq_attention", 1)]
)
def test_any_number_of_layers(name: str, blocks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From each framework into the next by the same schema, beginning and ending with PyTorch."""
    case = book_case(name, *sequences.INPUTS[name], sizes=Sizes(blocks=blocks))
    net = case.random("torch", 1)
    output, given, before = case.run("torch", net), tmp_path / "given.pt", "torch"
    SIDES["torch"].save(net, given)
    for flavour in ("keras", "linen", "gluon", "torch"):
        side, result = SIDES[flavour], tmp_path / f"{flavour}{SIDES[flavour].ending}"
        ok(capsys, f"{SIDES[before].framework}->{side.framework}", given, "--schema", name, "-o", result)
        assert_same(case.run(flavour, side.load(case.random(flavour, 2), result)), output)
        given, before = result, flavour


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "deep_gru"])
def test_a_keras_model_without_hyper_parameters(
    name: str, runs: dict[str, Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks for its layers in other places, and stores them there."""
    given = runs[name].made("torch")
    result, again = tmp_path / "result.weights.h5", tmp_path / "again.pt"
    ok(capsys, "torch->tensorflow", given.path, "--schema", name, "-o", result)
    net = in_keras.NETS[name](Sizes())
    del net.hparams
    net(sequences.TOKENS)
    assert_same(CASES[name].run("keras", SIDES["keras"].load(net, result)), given.output)
    net.save_weights(result)
    ok(capsys, "tensorflow->torch", result, "--schema", name, "-o", again)
    clone = SIDES["torch"].load(CASES[name].random("torch", 3), again)
    assert_same(CASES[name].run("torch", clone), given.output)


def test_layers_of_layers_go_into_keras_without_a_schema(
    runs: dict[str, Runs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the names are those of the attributes: several recurrent layers are a stack of cells there."""
    given, clone = runs["seq2seq"].made("torch"), runs["seq2seq"].made("keras")
    result = tmp_path / "result.weights.h5"
    ok(capsys, "torch->tensorflow", given.path, "--kind", "*.embedding=embedding", "-o", result)
    net = SIDES["keras"].load(CASES["seq2seq"].anew("keras", clone.net, 3), result)
    assert_same(CASES["seq2seq"].run("keras", net), given.output)
