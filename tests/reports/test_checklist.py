"""The checklist of a report: the lines that apply to the layers and to the two frameworks, and no others."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import keras
import numpy as np
import pytest
import torch
from flax import linen

import converter
from tests.chapter import SIDES, random_weights
from tests.places import ROOT

BATCH_NORM = ["BatchNorm epsilon", "BatchNorm momentum (for training)"]
NORM = "LayerNorm, GroupNorm, InstanceNorm epsilon"
CONV = ["padding of a convolution with stride 2", "average pooling with padding", "LeakyReLU slope"]


def saved(folder: Path, *layers: tuple[str, torch.nn.Module]) -> Path:
    net = torch.nn.Module()
    for name, layer in layers:
        net.add_module(name, layer)
    torch.save(net.state_dict(), folder / "net.pt")
    return folder / "net.pt"


def properties(direction: str, path: Path, **options: Any) -> list[str]:
    report = converter.convert(direction, path, path.with_name("made.safetensors"), force=True, **options)
    return [check.property for check in report.checks]


CONVOLUTION, POINTWISE = torch.nn.Conv2d(3, 4, (3, 5)), torch.nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([torch.nn.Linear(3, 4)], []),
        ([torch.nn.BatchNorm1d(3)], BATCH_NORM),
        ([torch.nn.LayerNorm(3)], [NORM]),
        ([torch.nn.RMSNorm(3)], [NORM, "RMSNorm epsilon"]),  # or a LayerNorm without bias
        ([torch.nn.LSTM(3, 4)], ["axes of recurrent inputs"]),
        ([CONVOLUTION, torch.nn.BatchNorm2d(4)], [*BATCH_NORM, *CONV]),
        ([POINTWISE, torch.nn.BatchNorm2d(4)], BATCH_NORM),  # a kernel of one place needs no padding
        ([torch.nn.LayerNorm(3), torch.nn.Linear(3, 4)], [NORM]),
    ],
    ids=lambda value: "-".join(type(item).__name__ for item in value) if value and isinstance(value, list) else None,
)
def test_only_the_lines_that_apply_to_the_layers(
    tmp_path: Path, layers: list[torch.nn.Module], expected: list[str]
) -> None:
    path = saved(tmp_path, *((f"layer{i}", layer) for i, layer in enumerate(layers)))
    said = {torch.nn.Conv2d: "conv", torch.nn.RMSNorm: "norm"}
    kinds = {f"layer{i}": said[type(layer)] for i, layer in enumerate(layers) if type(layer) in said}
    assert properties("torch->tensorflow", path, kind=kinds) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("torch", []),
        ("neutral", []),
        ("mxnet", []),
        ("flax", [BATCH_NORM[1], NORM, "GELU"]),
        ("tensorflow", [*BATCH_NORM, NORM]),
    ],
)
def test_only_the_lines_in_which_the_frameworks_differ(tmp_path: Path, target: str, expected: list[str]) -> None:
    net = (("bn", torch.nn.BatchNorm1d(3)), ("ln", torch.nn.LayerNorm(3)), ("fc", torch.nn.Linear(3, 4)))
    assert properties(f"torch->{target}", saved(tmp_path, *net)) == expected


def test_a_report_of_the_mlp_stays_short(tmp_path: Path) -> None:
    for name, side in SIDES.items():
        side.save(side.make(random_weights(1)), tmp_path / side.file)
        for target in ("torch", "flax", "tensorflow", "mxnet"):
            output = tmp_path / f"to-{target}.npz"
            report = converter.convert(f"{name}->{target}", tmp_path / side.file, output, schema="mlp", force=True)
            assert report.checks == () and "check:" not in str(report)


def test_a_line_says_both_defaults_and_what_to_write_in_the_clone(tmp_path: Path) -> None:
    path = saved(tmp_path, *((f"bn{i}", torch.nn.BatchNorm2d(3)) for i in range(3)))
    report = converter.convert("torch->tensorflow", path, tmp_path / "made.weights.h5")
    assert str(report).splitlines()[-2:] == [
        "check: BatchNorm epsilon: PyTorch 1e-05, TensorFlow 0.001 (in the clone: epsilon=1e-05)",
        "check: BatchNorm momentum (for training): PyTorch 0.1 (one minus the others'), TensorFlow 0.99 "
        "(in the clone: momentum=0.9)",
    ]
    assert json.loads(json.dumps(report.to_dict()))["checklist"][0] == {
        "property": "BatchNorm epsilon",
        "source": "PyTorch 1e-05",
        "target": "TensorFlow 0.001",
        "remedy": "epsilon=1e-05",
        "layers": ["bn0", "bn1", "bn2"],
    }
    back = converter.convert("tensorflow->torch", tmp_path / "made.weights.h5", tmp_path / "back.pt")
    assert [check.remedy for check in back.checks] == ["eps=0.001", "momentum=0.01"]


def test_a_neutral_file_knows_where_it_came_from(tmp_path: Path) -> None:
    path = saved(tmp_path, ("bn", torch.nn.BatchNorm1d(3)))
    converter.convert("torch->neutral", path, tmp_path / "net.safetensors")
    assert properties("neutral->tensorflow", tmp_path / "net.safetensors") == BATCH_NORM
    assert properties("neutral->torch", tmp_path / "net.safetensors") == []


class Normalised(linen.Module):
    norm: Callable[..., Any]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return self.norm(name="norm")(x)


def keras_norm(**settings: Any) -> Any:
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.LayerNormalization(name="norm", **settings)(inputs))


def test_what_a_line_says_makes_the_clone_equal(tmp_path: Path) -> None:
    """Small inputs, so that the epsilon is most of the function."""
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32) * 1e-3
    net = Normalised(linen.LayerNorm)
    variables = jax.tree.map(lambda v: v + 0.5, net.init(jax.random.PRNGKey(0), x))
    (tmp_path / "net.msgpack").write_bytes(flax.serialization.to_bytes(variables))
    report = converter.convert("flax->tensorflow", tmp_path / "net.msgpack", tmp_path / "net.weights.h5")
    (check,) = report.checks
    argument, _, value = check.remedy.partition("=")
    expected = np.asarray(net.apply(variables, x))
    for settings, is_equal in (({}, False), ({argument: float(value)}, True)):
        clone = keras_norm(**settings)
        clone.load_weights(tmp_path / "net.weights.h5")
        assert np.allclose(clone(x), expected, rtol=1e-4, atol=1e-4) is is_equal


def test_the_page_of_defaults_is_current() -> None:
    module = runpy.run_path(str(ROOT / "tools" / "checklist.py"))
    assert module["PAGE"].read_text() == module["page"](), "run: python tools/checklist.py"
