"""The recurrent nets and transformers of the book, every ordered pair of frameworks: by a shipped schema, by a clone.

A net is made once for each framework, and gets other weights before every load: what a file does not bring is found.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.book import sequences, transformers
from tests.book.sequence_nets import in_keras
from tests.book.sequence_nets.between import Sizes
from tests.book.sequence_nets.case import BookCase, book_case
from tests.command import ok
from tests.parity.sides import SIDES, Array, Case, assert_same, every

CASES = {**sequences.CASES, **transformers.CASES}
PAIRS = every([*CASES.values()], Case.pairs)


@dataclass(frozen=True)
class Made:
    """A net to load into, its file (the clone's), and the file of other weights with the output that they give."""

    net: Any
    like: Path
    source: Path
    output: Array


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("nets")

    @functools.cache
    def make(name: str, flavour: str) -> Made:
        case, side = CASES[name], SIDES[flavour]
        source, like = (folder / f"{name}_{flavour}_{what}{side.ending}" for what in ("source", "like"))
        net = case.random(flavour, 1)
        side.save(net, source)
        output = case.run(flavour, net)
        net = case.anew(flavour, net, 2)
        side.save(net, like)
        return Made(net, like, source, output)

    return make


def converted(case: BookCase, source: str, target: str, made: Any, folder: Path, run: Any, *words: object) -> None:
    """The file of one framework converted, loaded strictly by the other, gives the same output."""
    ours, theirs = made(case.name, source), made(case.name, target)
    result = folder / f"result{SIDES[target].ending}"
    run(f"{SIDES[source].framework}->{SIDES[target].framework}", ours.source, "-o", result, *words)
    loaded = SIDES[target].load(case.anew(target, theirs.net, 3), result)
    assert_same(case.run(target, loaded), ours.output)


@pytest.mark.parametrize(("case", "source", "target"), PAIRS)
def test_by_the_schema_alone(
    case: BookCase, source: str, target: str, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted(case, source, target, made, tmp_path, functools.partial(ok, capsys), "--schema", case.name)


@pytest.mark.parametrize(("case", "source", "target"), PAIRS)
def test_by_the_clone_alone(
    case: BookCase, source: str, target: str, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = made(case.name, target).like
    converted(case, source, target, made, tmp_path, functools.partial(ok, capsys), "--like", like)


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
    name: str, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks for its layers in other places, and stores them there."""
    result, again = tmp_path / "result.weights.h5", tmp_path / "again.pt"
    ok(capsys, "torch->tensorflow", made(name, "torch").source, "--schema", name, "-o", result)
    net = in_keras.NETS[name](Sizes())
    del net.hparams
    net(sequences.TOKENS)
    assert_same(CASES[name].run("keras", SIDES["keras"].load(net, result)), made(name, "torch").output)
    net.save_weights(result)
    ok(capsys, "tensorflow->torch", result, "--schema", name, "-o", again)
    clone = SIDES["torch"].load(CASES[name].random("torch", 3), again)
    assert_same(CASES[name].run("torch", clone), made(name, "torch").output)


def test_layers_of_layers_go_into_keras_without_a_schema(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the names are those of the attributes: several recurrent layers are a stack of cells there."""
    words = ("--kind", "*.embedding=embedding")
    converted(CASES["seq2seq"], "torch", "keras", made, tmp_path, functools.partial(ok, capsys), *words)
