"""Across frameworks a weight whose names no table has is a question, never a copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import converter
from converter.frameworks.tensorflow import VALUE


@pytest.fixture
def source(tmp_path: Path) -> Any:
    def saved(shapes: dict[str, tuple[int, ...]]) -> Path:
        rng = np.random.default_rng(0)
        tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(tensors, tmp_path / "net.safetensors")
        return tmp_path / "net.safetensors"

    return saved


def done(source: Path, framework: str, **options: Any) -> dict[str, str]:
    to = "torch" if framework != "torch" else "flax"
    with converter.plan(source, to=to, framework=framework, **options) as plan:
        return {step.sources[0].name: step.done for step in plan.tensors.steps}


#: By what made it: the framework whose names these are taken for, and the tensors.
UNKNOWN: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "a transposed convolution of Haiku": ("flax", {"conv2_d_transpose/w": (3, 3, 2, 4), "conv2_d_transpose/b": (2,)}),
    "a GRU of Haiku": ("flax", {"gru/w_i": (3, 12), "gru/w_h": (4, 12), "gru/b": (12,)}),
    "a matrix of one's own": ("flax", {"mine/w": (4, 4)}),
    "a kernel of one's own": ("flax", {"params/mine/my_kernel": (3, 4)}),
    "a weight with a bias": ("tensorflow", {"mine/theta": (3, 4), "mine/b": (4,)}),
    "ConvLSTM2D of Keras 3": (
        "tensorflow",
        {f"layers/conv_lstm2d/cell/vars/{i}": shape for i, shape in enumerate([(3, 3, 2, 16), (3, 3, 4, 16), (16,)])},
    ),
    "ConvLSTM2D of a checkpoint": (
        "tensorflow",
        {
            f"net/cell/kernel{VALUE}": (3, 3, 2, 16),
            f"net/cell/recurrent_kernel{VALUE}": (3, 3, 4, 16),
            f"net/cell/bias{VALUE}": (16,),
        },
    ),
    **{
        f"{name} of TensorFlow 1, {'in NumPy' if framework == 'flax' else 'a checkpoint'}": (
            framework,
            {f"rnn/{name}/kernel{value}": (9, 16), f"rnn/{name}/bias{value}": (16,)},
        )
        for framework, value in (("flax", ""), ("tensorflow", VALUE))
        for name in (
            "my_lstm_cell",
            "conv_lstm_cell",
            "multi_rnn_cell/cell_0/nas_lstm_cell",
            "gru_cell/gates",
            "rnn_cell_1",
        )
    },
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_it_is_asked_about(what: str, source: Any) -> None:
    framework, shapes = UNKNOWN[what]
    with pytest.raises(converter.MatchError) as error:
        done(source(shapes), framework)
    assert all(name in str(error.value) for name, shape in shapes.items() if len(shape) > 1), str(error.value)
    if framework == "flax":  # at home, in the names that it has, nothing is unknown
        with converter.plan(source(shapes), to=framework, framework=framework) as plan:
            assert len(plan.tensors.steps) == len(shapes)


def test_the_advice_leads_on(source: Any) -> None:
    path = source({"mlp/mine/w": (3, 4), "mlp/mine/b": (4,), "params/out/kernel": (4, 2), "params/out/bias": (2,)})
    with pytest.raises(converter.MatchError, match=r"kind=\{'mlp.mine.w': 'parameter'\} moves it as it is"):
        done(path, "flax")
    assert done(path, "flax", kind={"mlp.mine.w": "parameter"})["mlp/mine/w"] == "renamed"
    assert done(path, "flax", kind={"*": "parameter"})["params/out/kernel"] == "transposed, renamed"
    assert "mlp/mine/w" not in done(path, "flax", ignore=["mlp.mine"])


def test_tensors_of_their_own_are_moved(source: Any) -> None:
    shapes = {"params/pos_embed": (1, 5, 4), "params/cls": (1, 1, 4), "params/norm/table": (7, 3), "params/b": (3,)}
    assert done(source(shapes), "flax").keys() == shapes.keys()


def test_the_names_of_slim_are_known(source: Any) -> None:
    shapes = {
        "net/conv1/weights": (3, 3, 2, 8),
        "net/conv1/biases": (8,),
        "net/conv1/BatchNorm/gamma": (8,),
        "net/conv1/BatchNorm/beta": (8,),
        "net/conv1/BatchNorm/moving_mean": (8,),
        "net/conv1/BatchNorm/moving_variance": (8,),
        "net/logits/weights": (8, 5),
        "net/logits/biases": (5,),
    }
    made = done(source(shapes), "tensorflow")
    assert made["net/logits/weights"] == "transposed, renamed"
    assert made["net/conv1/weights"] == "transposed, renamed"


ODD = {"odd.weight": (3, 4, 2, 2, 2, 2), "odd.bias": (9,)}


def test_within_a_framework_it_is_moved_whatever_it_is(source: Any, tmp_path: Path) -> None:
    path = source({f"net.{name}": shape for name, shape in ODD.items()})
    converter.convert("torch->torch", path, tmp_path / "m.safetensors", strip=["net"])
    with converter.open(path) as given, converter.open(tmp_path / "m.safetensors") as made:
        assert {name: value.tobytes() for name, value in made.items()} == {
            name.removeprefix("net."): value.tobytes() for name, value in given.items()
        }


def test_a_layer_of_an_unknown_kind_is_parameters_when_somebody_says_so(source: Any) -> None:
    path = source({**ODD, "fc.weight": (3, 4), "fc.bias": (3,)})
    with pytest.raises(converter.MatchError, match=r"kind=\{'odd': 'parameter'\} moves its tensors as they are"):
        done(path, "torch")
    for pattern in ("odd", "*"):
        made = done(path, "torch", kind={pattern: "parameter"})
        assert made["odd.weight"] == "renamed" and made["fc.weight"] == "transposed, renamed"


def test_a_kind_that_settles_nothing_is_refused(source: Any) -> None:
    path = source({"a.fc.weight": (3, 4), "a.fc.bias": (3,)})
    with pytest.raises(converter.MatchError, match=r"it settles nothing: 'a.fc' can only be linear"):
        done(path, "torch", kind={"*.fc": "parameter"})


def test_slopes_that_flax_has_no_place_for_are_explained(source: Any) -> None:
    path = source({"act.weight": (3,)})
    with pytest.raises(converter.MatchError, match="PReLU of Flax has one slope for all channels"):
        done(path, "torch", kind={"act": "prelu"})


def test_several_layers_in_one_are_no_layer_of_heads(source: Any) -> None:
    """Of `nn.scan`; the einsum of an attention that has a matrix for each head is stored just so."""
    path = source({"params/layers/mlp/kernel": (6, 5, 7), "params/layers/mlp/bias": (6, 7)})
    with pytest.raises(converter.MatchError, match="or several layers in one"):
        done(path, "flax")
    for pattern in ("layers.mlp", "*"):
        made = done(path, "flax", kind={pattern: "to_heads_by_head"})
        assert made["params/layers/mlp/kernel"] == "transposed, reshaped, renamed"
    path = source({"params/attn/query/kernel": (6, 5, 7), "params/attn/query/bias": (6, 7)})
    assert done(path, "flax")["params/attn/query/kernel"] == "transposed, reshaped, renamed"
