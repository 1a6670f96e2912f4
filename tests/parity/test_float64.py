"""The same nets in double precision: what a conversion in single precision would lose shows in the outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import tf_keras
from flax import nnx

import converter
from tests.command import ok
from tests.parity import attention_cases, conv_cases, flatten_cases, mixed_cases, norm_cases, recurrent_cases
from tests.parity import simple_cases as simple
from tests.parity.recurrent_cases import LINEN_CELLS, LinenLayers, Shape
from tests.parity.sides import MAIN, SIDES, Case, Linen, by_clone, every, linen_net, ring

NAMES = (
    *("linear", "dense over several axes", "conv1d", "conv2d", "depthwise2d of 2", "conv2d transposed", "batch norm"),
    *("three square layers lstm", "two layers two ways gru", "attention", "decoder", "U-Net"),
)
#: Keras computes the softmax of an attention in single precision whatever its floatx is.
SINGLE = {"attention": ("keras",)}
MODULES = (simple, conv_cases, norm_cases, recurrent_cases, flatten_cases, mixed_cases, attention_cases)


def _cells(shape: Shape) -> Callable[[], Linen]:
    """The cells of Flax begin with a state of the dtype that they were made for."""
    cell = functools.partial(LINEN_CELLS[shape.kind], param_dtype=jnp.float64)
    return linen_net(lambda: LinenLayers(shape, cell), shape.input().astype(np.float64))


CELLS = {
    "three square layers lstm": _cells(Shape("lstm", layers=3, size=5)),
    "two layers two ways gru": _cells(Shape("gru", layers=2, both=True)),
}


def _linen(net: Linen) -> Linen:
    return Linen(net.module, jax.tree.map(lambda value: jnp.asarray(value, jnp.float64), net.variables))


def _nnx(net: nnx.Module) -> nnx.Module:
    state = nnx.state(net, nnx.Not(nnx.RngState))
    nnx.update(net, jax.tree.map(lambda value: jnp.asarray(value, jnp.float64), state))
    return net


def _gluon(net: Any) -> Any:
    net.cast("float64")
    return net


#: Flavour -> a net in double precision. Keras makes its nets so by itself.
DOUBLE: Mapping[str, Callable[[Any], Any]] = {
    "torch": lambda net: net.double(),
    "keras": lambda net: net,
    "tf_keras": lambda net: net,
    "linen": _linen,
    "nnx": _nnx,
    "gluon": _gluon,
}


def doubled(case: Case) -> Case:
    def made(flavour: str) -> Callable[[], Any]:
        net = CELLS[case.name] if flavour == "linen" and case.name in CELLS else case.nets[flavour]
        return lambda: DOUBLE[flavour](net())

    return replace(
        case,
        nets={flavour: made(flavour) for flavour in case.nets},
        inputs=tuple(x.astype(np.float64) for x in case.inputs),
        tolerance=1e-12,
        **({"sources": {}} if isinstance(case, recurrent_cases.RecurrentCase) else {}),
    )


CASES = [doubled(case) for module in MODULES for case in module.CASES if case.name in NAMES]


def pairs(case: Case) -> list[tuple[str, str]]:
    flavours = [flavour for flavour in MAIN if flavour in case.nets and flavour not in SINGLE.get(case.name, ())]
    return ring(flavours)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    _keras_makes("float64")
    with jax.enable_x64(True):
        yield
    _keras_makes("float32")


def _keras_makes(dtype: str) -> None:
    """Nets of that dtype; the policy is kept from the first net on, so that floatx alone would do nothing."""
    keras.config.set_dtype_policy(dtype)
    tf_keras.mixed_precision.set_global_policy(dtype)
    for library in (keras, tf_keras):
        library.backend.set_floatx(dtype)


def test_every_case_is_there() -> None:
    assert [case.name for case in CASES] == [
        case.name for module in MODULES for case in module.CASES if case.name in NAMES
    ]
    assert {case.name for case in CASES} == set(NAMES)


@pytest.mark.parametrize(("case", "source", "target"), every(CASES, pairs))
def test_into_a_clone_s_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_clone(case, source, target, tmp_path, lambda *words: ok(capsys, *words))
    with converter.read(tmp_path / f"result{SIDES[target].ending}") as weights:
        floats = {spec.dtype.name for spec in weights.contents.specs if spec.dtype.kind == "f"}
    assert floats == {"float64"}
