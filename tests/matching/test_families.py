"""Within one framework a square kernel beside oblong ones that change their form: it follows, or is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import converter
from tests.command import ok, refused

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
SQUARE = "h.attn.c_proj"


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


#: As Conv1D of the GPT-2 code, and the Linear of Paddle, keep their matrices: inputs first.
IN_OUT = random(
    {
        "h.attn.c_attn.weight": (8, 24),
        "h.attn.c_attn.bias": (24,),
        f"{SQUARE}.weight": (8, 8),
        f"{SQUARE}.bias": (8,),
        "h.mlp.c_fc.weight": (8, 32),
        "h.mlp.c_fc.bias": (32,),
    }
)
OUT_IN = {name: np.ascontiguousarray(array.T) for name, array in IN_OUT.items()}
#: The kernels of transposed convolutions of Flax, with the channels in either order.
USUAL = random(
    {
        "params/up1/kernel": (2, 2, 4, 6),
        "params/up1/bias": (6,),
        "params/ConvTranspose_0/kernel": (3, 2, 5, 5),
        "params/ConvTranspose_0/bias": (5,),
    }
)
TURNED = {name: np.ascontiguousarray(a[::-1, ::-1].swapaxes(2, 3)) if a.ndim > 1 else a for name, a in USUAL.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(framework: str, source: Tensors, clone: Tensors, **options: Any) -> tuple[Tensors, str]:
    save_file(source, "source.safetensors")
    save_file({name: array + 1 for name, array in clone.items()}, "clone.safetensors")
    way = f"{framework}->{framework}"
    report = converter.convert(
        way, "source.safetensors", "made.safetensors", like="clone.safetensors", force=True, **options
    )
    with converter.open("made.safetensors", framework=framework) as made:
        return dict(made), str(report)


def equal(made: Tensors, wanted: Tensors) -> bool:
    return made.keys() == wanted.keys() and all(np.array_equal(made[name], wanted[name]) for name in wanted)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("framework", "one", "other"),
    [("torch", IN_OUT, OUT_IN), ("flax", USUAL, TURNED)],
    ids=["linear", "transposed convolution"],
)
def test_it_follows_those_whose_shapes_prove_it(framework: str, one: Tensors, other: Tensors) -> None:
    for source, wanted in ((one, other), (other, one)):
        made, said = converted(framework, source, wanted)
        assert equal(made, wanted)
        assert "same name, in another form as '" in said
        made, said = converted(framework, source, source)
        assert equal(made, source) and "another form" not in said


@pytest.mark.usefixtures("here")
def test_verify_does_not_call_a_wrong_one_equal() -> None:
    save_file(IN_OUT, "source.safetensors")
    save_file({**OUT_IN, f"{SQUARE}.weight": IN_OUT[f"{SQUARE}.weight"]}, "wrong.safetensors")
    save_file(OUT_IN, "right.safetensors")
    result = converter.verify("source.safetensors", "wrong.safetensors")
    assert [tensor.layer for tensor in result.tensors if not tensor.same] == [SQUARE]  # type: ignore[union-attr]
    assert converter.verify("source.safetensors", "right.safetensors").ok
    assert converter.verify("right.safetensors", "source.safetensors").ok
    assert not converter.verify("wrong.safetensors", "source.safetensors").ok


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("framework", "one", "other", "path", "kinds"),
    [
        ("torch", IN_OUT, OUT_IN, SQUARE, ("linear_in_out", "linear")),
        ("torch", OUT_IN, IN_OUT, SQUARE, ("linear_in_out", "linear")),
    ],
)
def test_what_is_stated_wins(framework: str, one: Tensors, other: Tensors, path: str, kinds: tuple[str, str]) -> None:
    for kind, wanted in zip(kinds, (other, one), strict=True):
        for pattern in (path, f"*{path[1:]}"):
            made, said = converted(framework, one, other, kind={pattern: kind})
            assert np.array_equal(made[f"{path}.weight"], wanted[f"{path}.weight"]), (kind, pattern)
            assert "another form" not in said


@pytest.mark.usefixtures("here")
def test_a_lone_square_matrix_is_turned_where_that_is_stated() -> None:
    lone = {name: array for name, array in IN_OUT.items() if name.startswith(SQUARE)}
    made, _ = converted("torch", lone, lone)
    assert equal(made, lone)
    made, _ = converted("torch", lone, lone, kind={SQUARE: "linear_in_out"})
    assert np.array_equal(made[f"{SQUARE}.weight"], lone[f"{SQUARE}.weight"].T)


MIXED = random({"head.weight": (3, 8), "head.bias": (3,)}, 1)


@pytest.mark.usefixtures("here")
def test_it_is_asked_about_where_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(IN_OUT | MIXED, "source.safetensors")
    save_file(OUT_IN | MIXED, "clone.safetensors")
    command = ["torch->torch", "source.safetensors", "--like", "clone.safetensors", "-o", "made.safetensors"]
    said = refused(capsys, *command)
    assert f"'{SQUARE}' ({SQUARE}.bias (8,), {SQUARE}.weight (8, 8)) could be linear or linear_in_out" in said
    assert "another" not in said and said.count("could be") == 1
    ok(capsys, *command, "--kind", f"{SQUARE}=linear_in_out")
    assert equal(dict(converter.read("made.safetensors")), OUT_IN | MIXED)
    assert f"'{SQUARE}'" in refused(capsys, *command, "--force", "--strict")


@pytest.mark.usefixtures("here")
def test_a_square_embedding_may_still_be_one() -> None:
    positions = random({"wpe.weight": (8, 8)}, 2)
    with pytest.raises(converter.MatchError, match=r"'wpe' .* could be linear_in_out or embedding"):
        converted("torch", IN_OUT | positions, OUT_IN | positions)
    made, _ = converted("torch", IN_OUT | positions, OUT_IN | positions, kind={"wpe": "embedding"})
    assert equal(made, OUT_IN | positions)
