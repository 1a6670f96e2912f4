"""No hint is ignored: one that meets no layer, or none that it can apply to, is refused with its near miss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import converter
from converter.core.contents import Contents
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import FLAGS, MatchError
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.options import MatchOptions
from converter.schema.loader import Schema, SchemaLayer

SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "attn.q_proj.weight": (8, 8),
    "attn.q_proj.bias": (8,),
    "fc1.weight": (6, 16),
    "fc1.bias": (6,),
}


def net(name: str, shapes: dict[str, tuple[int, ...]]) -> Net:
    float32 = np.dtype("float32")
    return framework(name).net(Contents(tuple(TensorSpec(tensor, shape, float32) for tensor, shape in shapes.items())))


SOURCE = net("torch", SHAPES)
CLONE = net("torch", {f"net.{name}": shape for name, shape in SHAPES.items()})


def refusal(target: Net | None = None, **options: Any) -> MatchError:
    with pytest.raises(MatchError) as error:
        Hints.of(MatchOptions(**options)).check_used(SOURCE, target)
    return error.value


MAPPINGS = ({"kind": {"fc_1": "linear"}}, {"heads": {"fc_1": 2}}, {"flatten": {"fc_1": 0}}, {"unflatten": {"fc_1": 2}})


@pytest.mark.parametrize("options", MAPPINGS, ids=lambda options: next(iter(options)))
@pytest.mark.parametrize(("target", "where"), [(None, "the source has no layer"), (CLONE, "neither net has a layer")])
def test_a_hint_that_meets_no_layer_is_refused_with_the_near_miss(
    options: dict[str, dict[str, Any]], target: Net | None, where: str
) -> None:
    (option, value), *_ = options.items()
    error = refusal(target, **options)
    (problem,) = error.problems
    assert problem.kind == "unknown name" and problem.subject == "fc_1" and problem.candidates[0] == "fc1"
    assert f"{option}={value!r}: {where} 'fc_1'. Did you mean 'fc1'" in str(error)
    assert f"--{option} fc_1={value['fc_1']}: {where} 'fc_1'." in error.said(FLAGS)


@pytest.mark.parametrize(
    ("target", "schema", "known"),
    [
        (CLONE, None, "the clone has no layer 'net.fc_1'. Did you mean 'net.fc1'"),
        (
            None,
            Schema("names", (SchemaLayer("net.fc1", "linear"),)),
            "the schema has no layer 'net.fc_1'. Did you mean",
        ),
        (None, None, "a new file has every layer of the source"),
    ],
)
def test_allow_missing_that_meets_no_layer_is_refused(target: Net | None, schema: Schema | None, known: str) -> None:
    text = str(refusal(target, allow_missing=["net.fc_1"], schema=schema))
    assert text.startswith(f"allow_missing='net.fc_1': {known}")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heads": {"fc1": 2}}, "--heads fc1=2: 'fc1' is linear, which has no heads."),
        ({"heads": {"conv": 2}}, "--heads conv=2: 'conv' is conv, which has no heads."),
        ({"flatten": {"conv": 4}}, "--flatten conv=4: 'conv' is conv, whose inputs are no features."),
        ({"unflatten": {"conv": 4}}, "--unflatten conv=4: 'conv' is conv, whose outputs are no"),
        (
            {"flatten": {"conv": "64x49+4"}},
            "--flatten conv=64x49+4: 'conv' is conv, whose inputs are no features.",
        ),
    ],
)
def test_a_hint_that_cannot_apply_is_refused(options: dict[str, Any], text: str) -> None:
    for target in (None, CLONE):
        assert refusal(target, **options).said(FLAGS).startswith(text)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": {"*": "conv"}},
        {"heads": {"attn": 2}},
        {"heads": {"net.attn": 2}},
        {"flatten": {"fc1": 4}},
        {"flatten": {"net.fc*": 0}},
        {"unflatten": {"*": 0}},
        {"allow_missing": "net.*"},
    ],
)
def test_a_hint_that_applies_to_either_net_is_taken(options: dict[str, Any]) -> None:
    Hints.of(MatchOptions(**options)).check_used(SOURCE, CLONE)


def test_all_hints_that_meet_nothing_are_told_at_once() -> None:
    options = MAPPINGS[0] | MAPPINGS[1] | MAPPINGS[2] | MAPPINGS[3] | {"allow_missing": ["a", "b"]}
    told = [problem.about.option for problem in refusal(CLONE, **options).problems if problem.about]
    assert told == ["kind", "heads", "flatten", "unflatten", "allow_missing", "allow_missing"]


@pytest.mark.parametrize("like", [False, True])
def test_a_near_miss_of_flatten_does_not_permute(tmp_path: Path, like: bool) -> None:
    """Said of no layer, it was ignored once, and the features were permuted: the opposite of what was meant."""
    source, clone = tmp_path / "net.safetensors", tmp_path / "clone.npz"
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items() if "attn" not in name}
    safetensors.numpy.save_file(zeros, source)
    converter.convert("torch->flax", source, clone, flatten={"fc1": 4})
    words: dict[str, Any] = {"framework": "torch", **({"like": clone} if like else {})}
    with pytest.raises(MatchError, match=r"flatten=\{'fc_1': 0\}: .* 'fc_1'\. Did you mean 'fc1'"):
        converter.plan(source, "flax", flatten={"fc_1": 0}, **words)
    with converter.plan(source, "flax", flatten={"fc1": 0}, **words) as plan:
        assert [(item.path, item.channels) for item in plan.tensors.flattened if item.path == "fc1"] == [("fc1", 0)]
