"""Weight and spectral normalisation: folded into the kernel across frameworks, kept in pieces within one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from flax import linen, nnx
from flax.traverse_util import flatten_dict
from torch.nn.utils import parametrizations

from converter.core.kinds import KINDS
from tests.command import ok, refused
from tests.parity.across import anew, into, saved
from tests.parity.chains import normal
from tests.parity.folded_cases import LAYERS, WRAPS, normalised, plain
from tests.parity.sides import SIDES, Case, keras_net, linen_net
from tests.parity.simple_cases import LinearTorch

FOLDED = {"weight": "weight normalisation folded in", "spectral": "spectral normalisation folded in"}


def said(name: str) -> tuple[str, ...]:
    """The kind, where shapes and names leave it open."""
    return ("--kind", f"layer={LAYERS[name][0].kind}") if name.startswith("square") else ()


#: Every layer and wrapping, with one flavour after the other as the target: what is folded is the source.
TARGETS = [
    (name, wrap, list(plain(name).nets)[i % len(plain(name).nets)])
    for i, (name, wrap) in enumerate((name, wrap) for name in LAYERS for wrap in WRAPS)
]


@pytest.mark.parametrize(("name", "wrap", "target"), TARGETS)
def test_folded_into_a_plain_clone(
    name: str, target: str, wrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[str] = []
    into(
        normalised(name, wrap),
        "torch",
        plain(name),
        target,
        tmp_path,
        lambda *words: reports.append(ok(capsys, *words)),
        said(name),
    )
    assert FOLDED["spectral" if "spectral" in wrap else "weight"] in reports[0]


@pytest.mark.parametrize("target", ["keras", "linen"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_folded_without_a_template(target: str, wrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--kind", "layer=conv")
    ours = normalised("square conv2d", wrap)
    anew(ours, "torch", plain("square conv2d"), target, tmp_path, lambda *all: ok(capsys, *all), words=words)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("template", [False, True], ids=["alone", "clone"])
def test_kept_within_torch(
    name: str, wrap: str, template: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every bit of every piece; nothing is computed."""
    case = normalised(name, wrap)
    net, given = saved(case, "torch", tmp_path, 1)
    _, like = saved(case, "torch", tmp_path, 2, "like")
    result = tmp_path / "result.pt"
    words = ("--like", like) if template else ()
    assert "folded" not in ok(capsys, "torch->torch", given, "-o", result, *words)
    found = torch.load(result, weights_only=True)
    assert list(found) == list(net.state_dict())
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["linear", "transposed"])
@pytest.mark.parametrize(
    ("old", "new"),
    [("weight_norm", "parametrized weight_norm"), ("spectral_norm", "parametrized spectral_norm")],
)
@pytest.mark.parametrize("back", [False, True], ids=["to new", "to old"])
def test_old_names_and_parametrizations(
    name: str, old: str, new: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = (normalised(name, wrap) for wrap in ((new, old) if back else (old, new)))
    into(ours, "torch", theirs, "torch", tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize("source", ["torch", "keras", "linen"])
def test_a_normalised_clone_is_refused(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(plain("linear"), source, tmp_path, 1)
    _, like = saved(normalised("linear", "parametrized weight_norm"), "torch", tmp_path, 2, "like")
    message = refused(capsys, f"{SIDES[source].framework}->torch", given, "--like", like, "-o", tmp_path / "out.pt")
    assert "'layer' of the clone is normalised" in message and "remove_parametrizations" in message


def test_one_normalised_layer_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build() -> torch.nn.Module:
        net = LinearTorch(True)
        net.second = parametrizations.weight_norm(net.second)
        return net

    x = normal(4, 5)
    ours, theirs = Case("one", {"torch": build}, (x,)), Case("none", {"torch": lambda: LinearTorch(True)}, (x,))
    into(ours, "torch", theirs, "torch", tmp_path, lambda *words: ok(capsys, *words))


# --- Flax and Keras


class Normed(linen.Module):
    wrap: Any
    more: Any = ()

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(5, name="first")(x)
        return self.wrap(linen.Dense(4, name="second"))(x, **dict(self.more))


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 5), torch.nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


X = normal(4, 3)
PLAIN = Case("plain", {"torch": Plain}, (X,))
WEIGHT_NORM = Case("linen weight norm", {"linen": linen_net(lambda: Normed(linen.WeightNorm), X)}, (X,))
SPECTRAL = Case(
    "linen spectral norm",
    {"linen": linen_net(lambda: Normed(linen.SpectralNorm, (("update_stats", False),)), X)},
    (X,),
)


def test_weight_norm_of_linen_is_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports: list[str] = []
    into(WEIGHT_NORM, "linen", PLAIN, "torch", tmp_path, lambda *words: reports.append(ok(capsys, *words)))
    assert "weight normalisation folded in" in reports[0]
    anew(WEIGHT_NORM, "linen", PLAIN, "torch", tmp_path, lambda *words: ok(capsys, *words, "--force"))


def test_spectral_norm_of_linen_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(SPECTRAL, "linen", tmp_path, 1)
    _, like = saved(PLAIN, "torch", tmp_path, 2, "like")
    for words in ((), ("--like", like)):
        message = refused(capsys, "flax->torch", given, "-o", tmp_path / "out.pt", *words)
        assert "'second'" in message and KINDS["spectral_norm"].note in message


class NnxNormed(nnx.Module):
    """The second of two layers is normalised by a module around it."""

    def __init__(self, wrap: Any, **more: Any) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.second, self.more = wrap(nnx.Linear(5, 4, rngs=rngs), rngs=rngs), more

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x), **self.more)


class WrappedCase(Case):
    """What these modules keep of the layer inside is no variable of theirs, so they need its values from the start."""

    def fresh(self, flavour: str) -> Any:
        return self.nets[flavour]()


NNX_WEIGHT_NORM = WrappedCase("nnx weight norm", {"nnx": lambda: NnxNormed(nnx.WeightNorm)}, (X,))
NNX_SPECTRAL = WrappedCase("nnx spectral norm", {"nnx": lambda: NnxNormed(nnx.SpectralNorm, update_stats=False)}, (X,))


def test_weight_norm_of_nnx_is_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports: list[str] = []
    into(NNX_WEIGHT_NORM, "nnx", PLAIN, "torch", tmp_path, lambda *words: reports.append(ok(capsys, *words)))
    assert "weight normalisation folded in" in reports[0]
    anew(NNX_WEIGHT_NORM, "nnx", PLAIN, "torch", tmp_path, lambda *words: ok(capsys, *words, "--force"))


def test_norms_of_nnx_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(NNX_SPECTRAL, "nnx", tmp_path, 1)
    message = refused(capsys, "flax->torch", given, "-o", tmp_path / "out.pt")
    assert "'second'" in message and KINDS["spectral_norm"].note in message
    _, given = saved(PLAIN, "torch", tmp_path, 1)
    _, like = saved(NNX_WEIGHT_NORM, "nnx", tmp_path, 2, "like")
    message = refused(capsys, "torch->flax", given, "--like", like, "-o", tmp_path / "out.msgpack")
    assert "'second' of the clone is normalised" in message


@pytest.mark.parametrize("case", [WEIGHT_NORM, SPECTRAL], ids=lambda case: case.name)
def test_kept_within_flax(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, given = saved(case, "linen", tmp_path, 1)
    _, like = saved(case, "linen", tmp_path, 2, "like")
    ok(capsys, "flax->flax", given, "--like", like, "-o", tmp_path / "out.msgpack")
    found = SIDES["linen"].load(case.fresh("linen"), tmp_path / "out.msgpack")
    expected = flatten_dict(net.variables)
    assert {key: value.tobytes() for key, value in flatten_dict(found.variables).items()} == {
        key: value.tobytes() for key, value in expected.items()
    }


def keras_spectral(layers: Any) -> Any:
    top = layers.SpectralNormalization(layers.Dense(4, name="second"), name="normalised")
    return lambda x: top(layers.Dense(5, name="first")(x))


KERAS_SPECTRAL = Case("keras spectral norm", {"keras": keras_net(keras_spectral, (3,))}, (X,))


def test_spectral_norm_of_keras_leaves_its_vector_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its kernel is normalised in place, while it trains."""
    reports: list[str] = []
    words = ("--map", "normalised.layer=second")
    run = lambda *all: reports.append(ok(capsys, *all))  # noqa: E731
    into(KERAS_SPECTRAL, "keras", PLAIN, "torch", tmp_path, run, words)
    assert "vars/1 (only training uses it" in reports[0]


def test_kept_within_keras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, given = saved(KERAS_SPECTRAL, "keras", tmp_path, 1)
    _, like = saved(KERAS_SPECTRAL, "keras", tmp_path, 2, "like")
    ok(capsys, "tf->tf", given, "--like", like, "-o", tmp_path / "out.weights.h5")
    clone = KERAS_SPECTRAL.fresh("keras")
    clone.load_weights(tmp_path / "out.weights.h5")
    for found, expected in zip(clone.get_weights(), net.get_weights(), strict=True):
        assert found.tobytes() == expected.tobytes()
    assert isinstance(net, keras.Model)
