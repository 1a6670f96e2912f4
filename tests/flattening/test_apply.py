"""What the sizes of the layers tell of a flatten, and what the report says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from converter.core.contents import Contents
from converter.core.layers import Layer
from converter.core.tensors import DTYPES, TensorSpec
from converter.flattening.guesses import guesses
from converter.frameworks import framework
from converter.matching.hints import narrowed
from tests.command import ok, refused

KINDS = {
    nn.Conv2d: "conv",
    nn.Conv1d: "conv",
    nn.ConvTranspose2d: "conv_transpose",
    nn.Linear: "linear",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm1d: "batch_norm",
    nn.LayerNorm: "norm",
    nn.Embedding: "embedding",
    nn.LSTM: "lstm",
}


def layers_of(*modules: nn.Module) -> list[Layer]:
    """The layers of these modules, named by their position, as a file of PyTorch holds them."""
    net = nn.Sequential(*modules)
    specs = (TensorSpec(n, tuple(v.shape), DTYPES["float32"]) for n, v in net.state_dict().items() if v.ndim)
    kinds = {str(i): KINDS[type(module)] for i, module in enumerate(modules)}
    found = framework("torch").net(Contents(tuple(specs))).layers
    return [narrowed(layer, kinds[layer.path.partition(".")[0]]) for layer in found]


def answers(*modules: nn.Module, ordered: bool = True) -> dict[str, int | str]:
    """Position of a layer (with "out" behind it for its outputs) -> channels, 0 for none, "?" when it is asked."""
    found, doubts = guesses(layers_of(*modules), {}, "the order" if ordered else "")
    name = {"inputs": "", "outputs": " out"}
    decided = {item.path + name[item.side]: item.channels for item in found}
    return decided | {item.path + name[item.side]: "?" for item in doubts}


def conv(given: int, taken: int, groups: int = 1) -> nn.Module:
    with torch.device("meta"):
        return nn.Conv2d(given, taken, 1, groups=groups)


def up(given: int, taken: int) -> nn.Module:
    with torch.device("meta"):
        return nn.ConvTranspose2d(given, taken, 2)


def linear(given: int, taken: int) -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(given, taken)


def norm(size: int) -> nn.Module:
    return nn.BatchNorm2d(size)


VGG = (
    *(conv(*pair) for pair in [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]),
    *(conv(512, 512) for _ in range(5)),
    linear(25088, 4096),
    linear(4096, 4096),
    linear(4096, 1000),
)


def stage(given: int, taken: int) -> list[nn.Module]:
    """Of a ResNet, as torchvision defines it: two blocks, the first with a convolution past it."""
    first = [conv(given, taken), norm(taken), conv(taken, taken), norm(taken), conv(given, taken), norm(taken)]
    return [*first, conv(taken, taken), norm(taken), conv(taken, taken), norm(taken)]


RESNET = (conv(3, 64), norm(64), *stage(64, 128), *stage(128, 256), *stage(256, 512))


def inception(given: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> list[nn.Module]:
    return [
        *(conv(given, a), norm(a), conv(given, b[0]), norm(b[0]), conv(b[0], b[1]), norm(b[1])),
        *(conv(given, c[0]), norm(c[0]), conv(c[0], c[1]), norm(c[1]), conv(given, d), norm(d)),
    ]


GOOGLENET = (
    *(conv(3, 64), norm(64), conv(64, 64), norm(64), conv(64, 192), norm(192)),
    *inception(192, 64, (96, 128), (16, 32), 32),
    *inception(256, 128, (128, 192), (32, 96), 64),
    *inception(480, 192, (96, 208), (16, 48), 64),
    *inception(512, 384, (192, 384), (48, 128), 128),
)


def densenet(growth: int, *lengths: int) -> list[nn.Module]:
    size = 2 * growth
    found: list[nn.Module] = [conv(3, size), norm(size)]
    for length in lengths:
        for _ in range(length):
            found += [norm(size), conv(size, 4 * growth), norm(4 * growth), conv(4 * growth, growth)]
            size += growth
        if length is not lengths[-1]:
            found += [norm(size), conv(size, size // 2)]
            size //= 2
    return [*found, norm(size), linear(size, 1000)]


def positive(found: dict[str, int | str]) -> dict[str, int | str]:
    return {path: answer for path, answer in found.items() if answer}


def test_vgg() -> None:
    assert answers(*VGG) == {"12": 512}
    assert answers(*VGG, ordered=False) == {"12": 512}


@pytest.mark.parametrize("ordered", [True, False])
def test_resnet(ordered: bool) -> None:
    last = str(len(RESNET))
    assert positive(answers(*RESNET, linear(512, 1000), ordered=ordered)) == {}
    assert positive(answers(*RESNET, linear(512 * 49, 1000), ordered=ordered)) == {last: 512}


def test_concatenated_and_pooled() -> None:
    assert positive(answers(*GOOGLENET, linear(1024, 1000))) == {}
    assert positive(answers(*densenet(32, 6, 12, 24, 16))) == {}
    assert positive(answers(*densenet(12, 4, 4, 4))) == {}


def test_twice_the_channels_are_two_places_and_not_two_layers() -> None:
    assert answers(conv(3, 7), linear(14, 5)) == {"1": 7}
    assert answers(conv(3, 32), conv(32, 16), linear(48, 5)) == {"2": 16}


def test_concatenated_and_flattened_or_without_an_order_is_asked() -> None:
    last = str(len(GOOGLENET))
    assert answers(*GOOGLENET, linear(1024 * 4, 10))[last] == "?"
    assert positive(answers(*GOOGLENET, linear(1024, 1000), ordered=False)) == {last: "?"}


def test_two_heads_on_what_one_linear_layer_gives() -> None:
    """The second head takes 512 features, which 64 divides: but those were flattened to 3136 before."""
    net = (conv(4, 32), conv(32, 64), linear(3136, 512), linear(512, 6), linear(512, 1))
    assert answers(*net) == {"2": 64}
    assert answers(*net, ordered=False) == {"2": 64}


def test_two_heads_on_one_flatten() -> None:
    assert answers(conv(4, 64), linear(3136, 512), linear(512, 6), linear(3136, 512), linear(512, 1)) == {
        "1": 64,
        "3": 64,
    }


def test_branches_that_sizes_do_not_tell_apart_are_asked() -> None:
    assert answers(conv(3, 12), conv(3, 8), linear(96, 10)) == {"2": "?"}
    assert answers(nn.Embedding(10, 64), conv(3, 16), linear(64, 10)) == {"2": "?"}


def test_a_flatten_as_large_as_a_layer_behind_it() -> None:
    net = (conv(3, 16), linear(64, 64), linear(64, 10))
    assert answers(*net) == {"1": 16}
    assert "?" in answers(*net, ordered=False).values()


def test_squeeze_and_excitation_before_a_flatten() -> None:
    assert answers(conv(3, 64), linear(64, 4), linear(4, 64), linear(3136, 10)) == {"3": 64}


def test_depthwise_and_grouped() -> None:
    assert answers(conv(3, 32), conv(32, 32, 32), conv(32, 64), conv(64, 64, 4), linear(64 * 9, 10)) == {"4": 64}
    assert positive(answers(conv(3, 32), conv(32, 64, 32), linear(64, 10))) == {}


def test_transformer_on_patches() -> None:
    blocks = [m for _ in range(2) for m in (nn.LayerNorm(64), linear(64, 64), linear(64, 256), linear(256, 64))]
    assert positive(answers(conv(3, 64), *blocks, nn.LayerNorm(64), linear(64, 10))) == {}
    assert positive(answers(conv(3, 64), *blocks, nn.LayerNorm(64), linear(64, 10), ordered=False)) == {}


@pytest.mark.parametrize(("name", "asked"), [("attn.qkv", []), ("attn.triple", ["attn.proj"])])
def test_the_values_of_an_attention_are_not_flattened(name: str, asked: list[str]) -> None:
    """MobileViT: the channels 48 of a convolution before it divide the 96 values, of three times as many outputs."""
    shapes = {"conv": (48, 3, 3, 3), "point": (96, 80, 1, 1), name: (288, 96), "attn.proj": (96, 96)}
    specs = (TensorSpec(f"{path}.weight", shape, DTYPES["float32"]) for path, shape in shapes.items())
    layers = framework("torch").net(Contents(tuple(specs))).layers
    net = [narrowed(layer, "conv" if len(layer.tensors[0].shape) == 4 else "linear") for layer in layers]
    decided, doubts = guesses(net, {}, "the order")
    assert [item.path for item in doubts] == asked and not decided


def test_norms_defined_behind_all_convolutions() -> None:
    assert answers(conv(3, 32), conv(32, 16), norm(32), norm(16), linear(144, 10)) == {"4": 16}


def test_a_norm_of_features() -> None:
    net = (conv(3, 16), nn.BatchNorm1d(144), linear(144, 10))
    assert answers(*net) == {"1": 16, "2": 16}
    assert answers(*net, ordered=False) == {"1": 16, "2": 16}


def test_decoder() -> None:
    net = (conv(3, 16), conv(16, 32), linear(288, 7), linear(7, 288), up(32, 16), up(16, 3))
    assert answers(*net) == {"2": 32, "3 out": 32}
    assert answers(*net, ordered=False)["2"] == "?", "it could stand behind the layer that gives as many"


@pytest.mark.parametrize("ordered", [True, False])
def test_generator(ordered: bool) -> None:
    net = (linear(100, 1024), nn.BatchNorm1d(1024), up(64, 32), norm(32), up(32, 3))
    assert answers(*net, ordered=ordered) == {"0 out": 64, "1": 64}


def test_a_recurrent_layer_on_channels_is_asked() -> None:
    assert answers(conv(1, 16), nn.LSTM(96, 20)) == {"1": "?"}


def test_inputs_beside_what_was_flattened_are_asked() -> None:
    """Nothing else takes the channels of the last convolution, so they are among what nobody explains."""
    assert answers(conv(3, 64), linear(3136 + 4, 512), linear(512, 6)) == {"1": "?"}
    assert answers(conv(3, 64), linear(64 + 4, 10)) == {"1": "?"}
    # a layer between convolutions, or with fewer inputs than there are channels, has them from elsewhere
    assert positive(answers(conv(3, 64), linear(70, 64), conv(64, 64), linear(64, 10))) == {}
    assert positive(answers(conv(3, 64), linear(64, 10), linear(5, 10))) == {}


def test_two_branches_and_one_layer_are_asked() -> None:
    """The channels of the first divide the inputs; but then nothing takes those of the second."""
    assert answers(conv(3, 8), conv(3, 64), linear(224, 84), linear(84, 5)) == {"2": "?"}
    assert answers(conv(3, 16), conv(3, 16), linear(800, 10)) == {"2": "?"}
    assert answers(conv(3, 8), conv(3, 50), linear(72, 6), linear(450, 5)) == {"2": 8, "3": 50}


def test_a_layer_before_the_image_s_convolution() -> None:
    """The channels of an image come from outside: what was embedded before may be a multiple of them by chance."""
    assert answers(linear(16, 48), conv(3, 48), linear(48, 5)) == {}
    assert answers(linear(48, 48), linear(48, 48), conv(3, 7), linear(7, 5)) == {}
    assert answers(linear(15, 96), conv(3, 8)) == {"0 out": "?"}


def test_a_decoder_defined_before_the_encoder() -> None:
    """No convolution gives the channels that the transposed one takes."""
    net = (up(24, 3), conv(3, 16), linear(320, 8), linear(8, 480))
    assert answers(*net) == {"2": 16, "3 out": "?"}


def test_a_depthwise_convolution_between_linear_layers() -> None:
    """As in SegFormer: the linear layers work at every place, and nothing is flattened."""
    net = (conv(3, 8), linear(8, 8), conv(8, 8), linear(8, 32), conv(32, 32, 32), linear(32, 8))
    assert positive(answers(*net)) == {}


def test_a_norm_defined_behind_the_decoder() -> None:
    net = (linear(9, 72), up(12, 16), up(16, 3), norm(12), nn.BatchNorm1d(72))
    assert answers(*net) == {"0 out": 12, "4": 12}


def test_convolutions_defined_backwards() -> None:
    """Their order is not that in which they are called, so only sizes count."""
    assert "?" in answers(conv(8, 24), conv(3, 8), linear(24, 100), linear(100, 5)).values()
    assert positive(answers(conv(16, 8), linear(50, 32), conv(3, 16))) == {}
    assert answers(conv(16, 8), linear(48, 32), conv(3, 16)) == {"1": 8}


def test_a_decoder_of_fewer_channels_than_the_encoder() -> None:
    """Its convolution takes 8 channels, and not 8 groups of the 64."""
    for first in (up(8, 8), conv(8, 8)):
        net = (conv(3, 64), linear(384, 20), linear(20, 10), linear(10, 48), first, up(8, 3))
        assert answers(*net) == {"1": 64, "3 out": 8}


def test_channels_that_go_on_are_asked() -> None:
    assert answers(conv(3, 6), linear(96, 10), conv(6, 16)) == {"1": "?"}
    assert answers(conv(3, 6), linear(96, 10), conv(3, 6), conv(6, 5), linear(45, 2)) == {"1": 6, "4": 5}


def test_two_nets_one_after_the_other_are_asked() -> None:
    """A text encoder before one of sound: what the second takes is no reshaped output of the first."""
    text = (linear(16, 16), linear(16, 24), linear(24, 16))
    assert answers(*text, conv(8, 16), conv(16, 16), linear(16, 5)) == {"2 out": "?"}


def test_names_in_alphabetical_order_are_no_order_of_definition() -> None:
    """A decoder's attention stands before the encoder's convolutions in a file of safetensors, and is not turned."""
    net = nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"conv1": conv(8, 16), "conv2": conv(16, 16), "fc": linear(16, 16)}),
            "decoder": nn.ModuleDict({"fc": linear(16, 24), "out": linear(24, 16)}),
        }
    )
    specs = [TensorSpec(name, tuple(value.shape), DTYPES["float32"]) for name, value in net.state_dict().items()]
    written, by_name = (
        framework("torch").net(Contents(tuple(order))) for order in (specs, sorted(specs, key=lambda spec: spec.name))
    )
    assert written.ordered and not by_name.ordered
    chain = [narrowed(layer, "conv" if "conv" in layer.path else "linear") for layer in by_name.layers]
    assert guesses(chain, {}, "") == ([], [])


def test_no_convolution_no_flatten() -> None:
    assert answers(linear(64, 32), nn.BatchNorm1d(32), linear(32, 64)) == {}


def test_a_linear_layer_sorted_before_the_convolutions_is_asked() -> None:
    assert answers(linear(288, 10), conv(3, 16), conv(16, 32)) == {"0": "?"}


# -- the report and the options --------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, (3, 2)), nn.Flatten(), nn.Linear(30, 4))
    torch.save(net.state_dict(), tmp_path / "in.pt")
    return tmp_path / "in.pt"


KIND = ("--kind", "0=conv", "--kind", "2=linear")


def kernel(path: Path) -> np.ndarray:
    return np.load(path)["params/2/kernel"]


def test_what_was_done_is_said(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.npz")
    said = ok(capsys, "torch->flax", source, "-o", out, *KIND)
    assert "flatten: the 30 inputs of 2 are 5 flattened channels (those of 0; it rests on the order of" in said
    given = torch.load(source)["2.weight"].numpy()
    np.testing.assert_array_equal(kernel(out), given.reshape(4, 5, 6).transpose(2, 1, 0).reshape(30, 4))
    found = json.loads(ok(capsys, "torch->flax", source, "-o", out, *KIND, "--force", "--json"))["flatten"]
    assert [(item["path"], item["side"], item["features"], item["channels"]) for item in found] == [
        ("2", "inputs", 30, 5)
    ]


@pytest.mark.parametrize("words", [("--flatten", "2=0"), ("--no-flatten-fix",)])
def test_it_can_be_turned_off_and_is_said_then(
    source: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    out = source.with_name("out.npz")
    said = ok(capsys, "torch->flax", source, "-o", out, *KIND, *words)
    assert "flatten: the 30 inputs of 2 keep their order" in said
    np.testing.assert_array_equal(kernel(out), torch.load(source)["2.weight"].numpy().T)


def test_channels_can_be_given(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.npz")
    assert "are 3 flattened channels (as specified)" in ok(
        capsys, "torch->flax", source, "-o", out, *KIND, "--flatten", "2=3", "--unflatten", "2=2"
    )
    given = torch.load(source)["2.weight"].numpy().reshape(2, 2, 3, 10)
    np.testing.assert_array_equal(kernel(out), given.transpose(3, 2, 1, 0).reshape(30, 4))
    said = refused(capsys, "torch->flax", source, "-o", out, *KIND, "--flatten", "2=7", "--force")
    assert "--flatten 2=7: the 30 inputs of '2' are not a multiple of 7." in said


def test_tensors_side_by_side_can_be_given(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.npz")
    words = ("torch->flax", source, "-o", out, *KIND, "--flatten")
    assert "are 3x8+2x2+2, tensors side by side (as specified)" in ok(capsys, *words, "2=3x8+2x2+2")
    given = torch.load(source)["2.weight"].numpy().T
    parts = given[:24].reshape(3, 8, 4), given[24:28].reshape(2, 2, 4), given[28:].reshape(2, 1, 4)
    expected = np.concatenate([part.transpose(1, 0, 2).reshape(-1, 4) for part in parts])
    np.testing.assert_array_equal(kernel(out), expected)
    ok(capsys, "verify", source, out, *KIND, "--flatten", "2=3x8+2x2+2", "--to", "flax")
    assert "--flatten 2=3x8+2x2: '2' has 30 inputs, and these are 28." in refused(
        capsys, *words, "2=3x8+2x2", "--force"
    )
    assert "'3y8' is neither a number of channels" in refused(capsys, *words, "2=3y8", "--force", code=2)


def test_between_equal_orders_nothing_is_done(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(ok(capsys, "torch->mxnet", source, "-o", source.with_name("out.params"), *KIND, "--json"))
    assert report["flatten"] == []
    assert [step["done"] for step in report["tensors"]] == [[]] * 4


def test_through_neutral(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flax, middle, back = (source.with_name(name) for name in ("out.msgpack", "mid.safetensors", "back.pt"))
    ok(capsys, "torch->flax", source, "-o", flax, *KIND)
    ok(capsys, "flax->neutral", flax, "-o", middle, *KIND)
    ok(capsys, "neutral->torch", middle, "-o", back)
    given, found = torch.load(source), torch.load(back)
    assert given.keys() == found.keys() and all(torch.equal(given[name], found[name]) for name in given)
