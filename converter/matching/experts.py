"""Experts that one net has in one tensor, [experts, outputs, inputs] or with inputs first, and the other net apart.

So have transformers 5 (``experts.gate_up_proj``, a bare tensor), Granite (``input_linear``), llama.cpp
(``ffn_up_exps``) and KerasHub. Which axis is which is told by the router beside them, whose inputs are those of the
experts, and by what the tensor is called: what goes into an expert has as many inputs, what comes out as many outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Leaf, Net, Reading, Stored
from converter.core.tensors import TensorSpec
from converter.frameworks.linear import IN_OUT, widths
from converter.matching.looks import Fitting
from converter.matching.words import Spelling, tokens_of

#: Words for what goes into an expert, and for what comes out of it.
_INTO = frozenset("gate up input w1 w3 wi gate_up".split())
_OUT_OF = frozenset("down output w2 wo".split())
#: Banks whose tensors have numbers alone, in the order in which KerasHub adds them (`MixtralMoeExperts.build`,
#: `QwenMoeExperts.build`), and what they are.
_NAMELESS = re.compile(r"(?P<module>.*(?P<kind>_sparse_moe_block|mlp)\.expert_bank)\.vars\.(?P<place>[0-2])", re.DOTALL)
_NAMES: Mapping[tuple[str, str], str] = {
    ("_sparse_moe_block", "0"): "gate",
    ("_sparse_moe_block", "1"): "up",
    ("_sparse_moe_block", "2"): "down",
    ("mlp", "0"): "gate_up",
    ("mlp", "1"): "down",
}
#: One of several that are numbered.
_NUMBERED = re.compile(r"(?:^|\.)(\d{1,9})(?=\.|$)")


class _Bank(msgspec.Struct, frozen=True):
    """Experts in one tensor. weight: of ``layer``; bias: the layer that holds theirs. turned: [experts, in, out]."""

    layer: Layer
    weight: TensorSpec
    turned: bool
    bias: Layer | None = None

    @property
    def count(self) -> int:
        return self.weight.shape[0]

    def apart(self) -> Iterator[Layer]:
        """Each expert as a linear layer: ``experts.3.gate_up_proj``."""
        module, _, name = _named(self.layer.path).rpartition(".")
        items = [(self.weight, "weight", "g in out" if self.turned else "g out in", "g out in")]
        items += [(self.bias.tensors[0], "bias", "g out", "g out")] if self.bias is not None else []
        for place in range(self.count):
            none = frozenset[str]()
            before, after = (none,) * place, (none,) * (self.count - place - 1)
            stored = tuple(
                Stored(spec, Leaf(role, (*before, frozenset({role}), *after), axes, neutral))
                for spec, role, axes, neutral in items
            )
            path = ".".join(filter(None, (module, str(place), name)))
            yield Layer(path, (Reading("linear", stored, IN_OUT if self.turned else ""),))


def experts_apart(net: Net, other: Net) -> Net:
    """The net with the experts in one tensor as layers of their own, where the other net has nothing that fits the
    tensor, and as many experts apart, or in other tensors.
    """
    banks = _unlike(net, other)
    if not banks:
        return net
    theirs = {bank.count for bank in _unlike(other, net)} | _counts(other)
    chosen = {bank.layer.path: bank for bank in banks if bank.count in theirs}
    biases = {bank.bias.path for bank in chosen.values() if bank.bias is not None}
    layers: list[Layer] = []
    for layer in net.layers:
        if layer.path in chosen:
            layers += chosen[layer.path].apart()
        elif layer.path not in biases:
            layers.append(layer)
    return replace(net, layers=tuple(layers))


def _unlike(net: Net, other: Net) -> list[_Bank]:
    """The banks that fit nothing of the other net."""
    banks = list(_banks(net))
    if not banks:
        return []
    fitting = Fitting(net.framework == other.framework)
    others = fitting.unlike(other.layers)
    return [bank for bank in banks if not any(fitting.fits(bank.layer, one) for one in others)]


def _banks(net: Net) -> Iterator[_Bank]:
    routers = _routers(net)
    for layer in net.layers:
        spec = _lone(layer)
        if spec is None or len(spec.shape) != 3 or spec.shape[0] < 2:
            continue
        path = _named(layer.path)
        sizes = {width for module in _around(path) for width in routers.get((module, spec.shape[0]), ())}
        turned = _turned(path, spec.shape, sizes.pop()) if len(sizes) == 1 else None
        if turned is not None:
            yield _Bank(layer, spec, turned, _bias_of(layer, spec, turned, net))


def _named(path: str) -> str:
    """The path of a bank, with a name in place of a number where that is known."""
    bank = _NAMELESS.fullmatch(path)
    name = _NAMES.get((bank["kind"], bank["place"])) if bank else None
    return f"{bank['module']}.{name}" if bank and name else path


def _lone(layer: Layer) -> TensorSpec | None:
    """The tensor of a layer that has no other, and is not linear by itself, as kernels of attentions are."""
    is_linear = any(reading.kind == "linear" for reading in layer.readings)
    alone = len(layer.tensors) == 1 and not is_linear and not layer.readings[0].stored[0].fold
    return layer.tensors[0] if alone else None


def _routers(net: Net) -> Mapping[tuple[str, int], set[int]]:
    """Module, and how many outputs linear layers in it, or a module further in, have -> what they take."""
    found: dict[tuple[str, int], set[int]] = {}
    if not any(len(spec.shape) == 3 for layer in net.layers for spec in layer.tensors):
        return found
    for layer in net.layers:
        size = widths(layer)
        for module in _around(layer.path) if size is not None else ():
            assert size is not None
            found.setdefault((module, size[0]), set()).add(size[1])
    return found


def _around(path: str) -> list[str]:
    """The two modules around a layer."""
    module = path.rpartition(".")[0]
    return list(dict.fromkeys(filter(None, (module, module.rpartition(".")[0]))))


def _turned(path: str, shape: Sequence[int], width: int) -> bool | None:
    """Whether the inputs of the experts are before their outputs; None where nothing tells that."""
    words = Spelling(tuple(tokens_of(path.rpartition(".")[2])))
    meaning = words.meaning() | {"".join(words.tokens)}
    into, out_of = bool(meaning & _INTO), bool(meaning & _OUT_OF)
    if into == out_of or (shape[1] == width) == (shape[2] == width):
        return None
    return (shape[1] == width) == into


def _bias_of(layer: Layer, spec: TensorSpec, turned: bool, net: Net) -> Layer | None:
    """The bare tensor beside it that is called as it is and a bias, of its size."""
    bias = net.by_path.get(f"{layer.path}_bias")
    size = spec.shape[2 if turned else 1]
    return bias if bias is not None and bias.tensors[0].shape == (spec.shape[0], size) else None


def _counts(net: Net) -> set[int]:
    """How many linear layers there are whose names differ in a last number alone, which counts them."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for layer in net.layers:
        *_, last = (None, *_NUMBERED.finditer(layer.path))
        if last is not None and any(reading.kind == "linear" for reading in layer.readings):
            around = layer.path[: last.start(1)], layer.path[last.end(1) :]
            numbers.setdefault(around, set()).add(int(last[1]))
    return {len(each) for each in numbers.values() if each == set(range(len(each)))}
