"""`converter schema infer`: the pairing that was found, written down, converts the same without the clone."""

from __future__ import annotations

from pathlib import Path

import pytest

import converter
from converter.commands.infer_schema import infer_schema
from tests.book.runs import Runs, all_cases
from tests.parity.sides import SIDES, Linen, assert_same, channels_last

PAIRS = [("torch", "linen"), ("keras", "torch"), ("linen", "gluon"), ("gluon", "keras")]


@pytest.mark.parametrize("name", ["lenet", "googlenet", "transformer", "deep_gru"])
def test_what_was_inferred_converts_alone(name: str, tmp_path: Path) -> None:
    case = all_cases()[name]
    runs = Runs(case, tmp_path)
    for source, target in PAIRS:
        ours, theirs, side = runs.made(source), runs.made(target), SIDES[target]
        kind = {"*": "conv"} if name in ("lenet", "googlenet") else {}
        schema, result = tmp_path / "mine.yaml", tmp_path / f"result-{source}{side.ending}"
        schema.write_text(infer_schema(ours.path, theirs.like, kind=kind))
        converter.convert(f"{SIDES[source].framework}->{side.framework}", ours.path, result, schema=str(schema))
        net = side.load(case.anew(target, theirs.net, 3), result)
        assert_same(case.run(target, net), ours.output)


def test_the_flatten_is_written_down(tmp_path: Path) -> None:
    """Without it the schema would leave the inputs of the first linear layer in their order."""
    runs = Runs(all_cases()["lenet"], tmp_path)
    text = infer_schema(runs.made("torch").path, runs.made("linen").like, kind={"*": "conv"})
    assert "- path: net.7\n  kind: linear\n  flatten: 16\n" in text


def test_a_live_net_tells_all(tmp_path: Path) -> None:
    case = all_cases()["alexnet"]
    runs = Runs(case, tmp_path)
    net = runs.made("linen").net
    assert isinstance(net, Linen)
    x = channels_last(case.inputs[0])
    with pytest.raises(converter.MatchError, match="rests on: only one with this shape"):
        infer_schema(runs.made("torch").path, runs.made("linen").like, strict=True)
    assert "kind: conv" in infer_schema(runs.made("torch").path, runs.made("linen").like)
    assert "kind: conv" in infer_schema(runs.made("torch").path, (net.module, net.variables), example_input=x)
