"""What files alone cannot tell is refused with the remedy, and right with each remedy; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import linen, nnx
from mxnet.gluon import nn as gluon

import converter
from tests.command import ok, refused
from tests.parity.chains import Link, NnxChain, chain, normal
from tests.parity.conv_cases import KERNELS, conv, depthwise, transposed
from tests.parity.norm_cases import CHANNELS, EPS, after_conv, group_norm, prelu_of_one, prelu_per_channel
from tests.parity.sides import SIDES, Case, assert_same

SIZE = 4


def square(made: str, bias: bool = True) -> Case:
    """One layer with as many channels in as out, of that kind or form."""
    link = (
        conv("layer", SIZE, SIZE, bias=bias)
        if made == "conv"
        else transposed("layer", SIZE, SIZE, bias=bias, flipped=made == "conv_transpose")
    )
    return chain(made, normal(2, SIZE, 5, 6), link)


def saved(flavour: str, case: Case, folder: Path, seed: int, name: str) -> tuple[Any, Path]:
    side = SIDES[flavour]
    net = side.randomise(case.fresh(flavour), np.random.default_rng(seed))
    path = folder / f"{name}{side.ending}"
    side.save(net, path)
    return net, path


PAIRS = [("torch", "linen"), ("linen", "torch"), ("gluon", "nnx"), ("nnx", "gluon"), ("tf_keras", "linen")]


@pytest.mark.parametrize("made", ["conv", "conv_transpose", "transpose_kernel"])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_square_kernel_is_refused_by_strict_and_right_with_each_remedy(
    source: str, target: str, made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = square(made)
    net, given = saved(source, case, tmp_path, 1, "source")
    _, like = saved(target, case, tmp_path, 2, "like")
    ours, theirs = SIDES[source], SIDES[target]
    way, result = f"{ours.framework}->{theirs.framework}", tmp_path / f"result{theirs.ending}"
    message = refused(capsys, way, given, "--like", like, "-o", result, "--strict")
    assert "could be" in message and all(f"--kind layer={kind}" in message for kind in ("conv", "conv_transpose"))
    assert "--schema" in message and not result.exists()
    (tmp_path / "net.yaml").write_text(f"name: net\nlayers:\n  - {{path: layer, kind: {made}}}\n")
    usual = [()] if made == "conv" else []  # what is taken where nothing is said
    for remedy in (("--kind", f"layer={made}"), ("--schema", tmp_path / "net.yaml"), *usual):
        ok(capsys, way, given, "--like", like, "-o", result, "--force", *remedy)
        assert_same(case.run(target, theirs.load(case.fresh(target), result)), case.run(source, net))
    clone = theirs.randomise(case.fresh(target), np.random.default_rng(3))
    if target != "linen":  # the tree of linen is without classes
        # how the kernel of a Flax file runs no clone can know
        kind = {"layer": made} if ours.framework == "flax" and made != "conv" else None
        filled = converter.load_into(clone, given, framework=ours.framework, kind=kind)
        assert_same(case.run(target, filled), case.run(source, net))


class AutomaticNames(linen.Module):
    """Linen names a layer by its class where the user gives no name."""

    made: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        layer = linen.Conv if self.made == "conv" else linen.ConvTranspose
        return layer(SIZE, KERNELS[2], padding="VALID")(x)


@pytest.mark.parametrize("made", ["conv", "conv_transpose"])
def test_the_class_name_in_a_file_tells_a_convolution(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import flax.serialization
    import jax
    import jax.numpy as jnp

    case, module, side = square(made), AutomaticNames(made), SIDES["torch"]
    tree = module.init(jax.random.PRNGKey(0), jnp.zeros((1, 5, 6, SIZE)))
    rng = np.random.default_rng(1)
    tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
    (tmp_path / "net.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    name = "Conv_0" if made == "conv" else "ConvTranspose_0"
    words = ("-o", tmp_path / "net.pt", "--map", f"{name}=layer")
    if made == "conv":
        ok(capsys, "flax->torch", tmp_path / "net.msgpack", *words)
    else:  # the class tells the kind, and not how its kernel runs
        message = refused(capsys, "flax->torch", tmp_path / "net.msgpack", *words)
        assert "conv_transpose or transpose_kernel" in message and f"--kind {name}=transpose_kernel" in message
        ok(capsys, "flax->torch", tmp_path / "net.msgpack", *words, "--kind", f"{name}={made}")
    expected = np.moveaxis(np.asarray(module.apply(tree, np.moveaxis(case.inputs[0], 1, -1))), -1, 1)
    assert_same(case.run("torch", side.load(case.fresh("torch"), tmp_path / "net.pt")), expected)


@pytest.mark.parametrize("flipped", [True, False], ids=["flipped", "transpose_kernel"])
def test_a_live_nnx_net_tells_its_flip(flipped: bool, tmp_path: Path) -> None:
    case = square("conv_transpose" if flipped else "transpose_kernel", bias=False)
    net, given = saved("torch", case, tmp_path, 1, "source")
    clone = case.fresh("nnx")
    assert isinstance(clone, NnxChain) and bool(clone.layer.transpose_kernel) != flipped
    assert_same(case.run("nnx", converter.load_into(clone, given)), case.run("torch", net))


@pytest.mark.parametrize("target", ["keras", "linen", "nnx"])
def test_groups_of_a_transposed_convolution_are_refused_where_they_do_not_exist(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grouped = chain("grouped", normal(2, SIZE, 5, 6), transposed("layer", SIZE, 6, groups=2))
    whole = chain("whole", normal(2, SIZE, 5, 6), transposed("layer", SIZE, 6))
    _, given = saved("torch", grouped, tmp_path, 1, "source")
    _, like = saved(target, whole, tmp_path, 2, "like")
    way = f"torch->{SIDES[target].framework}"
    message = refused(capsys, way, given, "--like", like, "-o", tmp_path / f"result{SIDES[target].ending}")
    assert "'layer.weight' has shape (4, 3, 3, 2)" in message or "no counterpart" in message, message


def test_a_depthwise_kernel_without_its_multiplier_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = chain("depthwise", normal(2, 3, 5, 6), depthwise("layer", 3, 2))
    _, given = saved("torch", case, tmp_path, 1, "source")
    words = ("torch->tf", given, "-o", tmp_path / "net.weights.h5", "--kind", "layer=depthwise")
    assert (
        "is a depthwise convolution whose channel multiplier is unknown. --schema NAMES.yaml tells; --like CLONE tells"
        in refused(capsys, *words)
    )


def test_slopes_per_channel_are_refused_for_the_one_of_flax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved("torch", after_conv("many", prelu_per_channel("act")), tmp_path, 1, "source")
    _, like = saved("linen", after_conv("one", prelu_of_one("act")), tmp_path, 2, "like")
    message = refused(capsys, "torch->flax", given, "--like", like, "-o", tmp_path / "net.msgpack")
    assert "'act.weight' has shape (6,)" in message and "negative_slope" in message


# --- gluon's GroupNorm: a scale for each group

GROUPS = 3
BY_CHANNEL = after_conv("by channel", group_norm("norm", GROUPS))
BY_GROUP = after_conv("by group", Link("norm", "group_norm", gluon=lambda: gluon.GroupNorm(GROUPS, EPS)))
SAID = ("--kind", "norm=group_norm")


@pytest.mark.parametrize("target", BY_CHANNEL.nets)
def test_a_scale_for_each_group_becomes_one_for_each_channel(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, given = saved("gluon", BY_GROUP, tmp_path, 1, "source")
    _, like = saved(target, BY_CHANNEL, tmp_path, 2, "like")
    side, result = SIDES[target], tmp_path / f"result{SIDES[target].ending}"
    message = refused(capsys, f"mxnet->{side.framework}", given, "--like", like, "-o", result)
    assert "'norm.gamma' has shape (3,)" in message
    ok(capsys, f"mxnet->{side.framework}", given, "--like", like, "-o", result, *SAID)
    found = BY_CHANNEL.run(target, side.load(BY_CHANNEL.fresh(target), result))
    assert_same(found, BY_GROUP.run("gluon", net))


def test_scales_that_differ_inside_a_group_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = SIDES["torch"]
    net, given = saved("torch", BY_CHANNEL, tmp_path, 1, "source")
    _, like = saved("gluon", BY_GROUP, tmp_path, 2, "like")
    words = ("torch->mxnet", given, "--like", like, "-o", tmp_path / "net.params", *SAID)
    message = refused(capsys, *words)
    assert "one value for each 2 channels, and 3 of 3 such groups hold values that differ" in message
    for value in (net.norm.weight.data, net.norm.bias.data):
        value.copy_(value[::2].repeat_interleave(CHANNELS // GROUPS))
    side.save(net, given)
    ok(capsys, *words)
    found = BY_GROUP.run("gluon", SIDES["gluon"].load(BY_GROUP.fresh("gluon"), tmp_path / "net.params"))
    assert_same(found, BY_CHANNEL.run("torch", net))


def test_live_nets_say_that_the_scale_is_for_a_group(tmp_path: Path) -> None:
    net, given = saved("torch", BY_CHANNEL, tmp_path, 1, "source")
    for value in (net.norm.weight.data, net.norm.bias.data):
        value.copy_(value[::2].repeat_interleave(CHANNELS // GROUPS))
    SIDES["torch"].save(net, given)
    clone = SIDES["gluon"].randomise(BY_GROUP.fresh("gluon"), np.random.default_rng(2))
    assert_same(BY_GROUP.run("gluon", converter.load_into(clone, given)), BY_CHANNEL.run("torch", net))


# --- an einsum whose kernel has other axes


def test_an_einsum_of_other_axes_is_refused_by_a_live_net(tmp_path: Path) -> None:
    class Turned(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.Einsum("ab,cb->ac", (SIZE, SIZE), (SIZE,), rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return self.layer(x)

    import keras
    import torch

    torch.save({"layer.weight": torch.randn(SIZE, SIZE), "layer.bias": torch.randn(SIZE)}, tmp_path / "net.pt")
    inputs = keras.Input((SIZE,))
    turned = keras.layers.EinsumDense("ab,cb->ac", SIZE, bias_axes="c", name="layer")
    for net in (Turned(), keras.Model(inputs, turned(inputs))):
        with pytest.raises(converter.MatchError, match="is a layer of an unknown kind"):
            converter.load_into(net, tmp_path / "net.pt")
