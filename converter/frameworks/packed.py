"""Tensors that are packed or cut to pieces, so that their elements are not the weights of a net: known by what stands
beside them in a layer, whatever file they are in; undone where that gives the very weights, else refused by name.

One row for each packing, with where its names come from: GPTQ and AWQ (auto_gptq, autoawq), EXL2, HQQ, AQLM,
bitsandbytes (``Params4bit.as_dict``, ``Int8Params``), compressed-tensors, FP8 (DeepSeek, vLLM, ModelOpt), MXFP4
(gpt-oss), MLX, quanto, torchao (``flatten_tensor_state_dict``), PyTorch (``torch.ao.quantization``, FSDP), DeepSpeed
and MXNet (``contrib.quantization``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.errors import Problem, listed
from converter.quantized import awq, bitsandbytes, compressed, gptq, mxfp4, scales
from converter.quantized.base import Packed, Unpack, Unpacked

__all__ = ["PACKINGS", "PackedLayer", "Packing", "packed_layers", "refusal"]

_UNPACK = "Load it with the library that packed it, make its weights plain there (dequantize), and save those"


class Packing(msgspec.Struct, frozen=True):
    """parts: what a layer has all of: pattern of the name of a tensor -> pattern of its dtype and number of axes, such
    as ``int32 2``. advice: how to get at the plain weights. unpack: undoes it; None where that is not done here.
    also: pattern of what else may belong to the weight. idle: of what belongs to the packing, and not to the weight.
    """

    title: str
    parts: Mapping[str, str]
    advice: str = _UNPACK
    unpack: Unpack | None = None
    also: str = ""
    idle: str = ""

    def has(self, leaf: str) -> bool:
        """Whether a tensor of that last name is a part of the weight."""
        return any(re.fullmatch(name, leaf) is not None for name in (*self.parts, self.also) if name)

    def is_idle(self, leaf: str) -> bool:
        return bool(self.idle and re.fullmatch(self.idle, leaf))


def _gptq_or_awq(packed: Packed) -> tuple[Unpacked, ...]:
    """AWQ packs the outputs of ``qweight``, and GPTQ its inputs."""
    plain = packed.spec("qweight", 2, "int32", "uint32").shape[1] == packed.spec("scales", 2, "float").shape[1]
    return gptq.unpack(packed) if plain else awq.unpack(packed)


_ACTIVATIONS = "(input|output)_(scale|zero_point|global_scale).*"
_SCALES = "weight_scale(_inv|_2)?|scale_weight|scale_inv"
#: The first that fits a layer names it.
PACKINGS: tuple[Packing, ...] = (
    Packing(
        "GPTQ",
        {"qweight": "u?int32 .", "qzeros": ".*", "scales": ".*", "g_idx": ".*"},
        unpack=gptq.unpack,
    ),
    Packing(
        "AWQ, or GPTQ without an order of groups",
        {"qweight": "u?int.*", "qzeros": ".*", "scales": ".*"},
        unpack=_gptq_or_awq,
    ),
    Packing("integers with scales", {"qweight": "u?int.*", ".*scales?": ".*"}),
    Packing("EXL2", {"q_weight": "u?int.*", "q_scale.*": ".*"}),
    Packing("HQQ", {"W_q": "u?int.*"}),
    Packing("AQLM", {"codes": "u?int.*", "codebooks": ".*"}),
    Packing(
        "bitsandbytes (4 bits)",
        {"absmax": ".*", "(nested_)?quant_map": ".*"},
        unpack=bitsandbytes.unpack_4_bits,
        also="|nested_absmax|quant_state.*",  # "": of the path itself
    ),
    Packing("bitsandbytes (4 bits), of which parts are missing", {"quant_state.*|bitsandbytes__(nf4|fp4)": ".*"}),
    Packing(
        "bitsandbytes (8 bits)",
        {"weight": "int8 .", "SCB": ".*"},
        unpack=bitsandbytes.unpack_8_bits,
        also="weight_format",
    ),
    Packing(
        "compressed-tensors",
        {"weight_packed": "u?int.*", "weight_scale": ".*"},
        unpack=compressed.unpack,
        also="weight_(shape|zero_point|g_idx|global_scale)",
        idle=_ACTIVATIONS,
    ),
    Packing(
        "FP8 with scales",
        {"weight": "float8.*", f"{_SCALES}|input_scale(_inv|_2)?": ".*"},
        unpack=scales.unpack,
        also="weight_zero_point",
        idle=_ACTIVATIONS,
    ),
    Packing(
        "integers with scales",
        {"weight": "u?int.*", f"{_SCALES}|weight_zero_point": ".*"},
        unpack=scales.unpack,
        also=_SCALES,
        idle=_ACTIVATIONS,
    ),
    Packing("MXFP4", {".*_blocks": "uint8 .", ".*_scales": "uint8 ."}, unpack=mxfp4.unpack),
    Packing("MLX", {"weight": "uint32 2", "scales": "b?float.*"}),
    Packing("quanto", {"_data": "u?int.*|float8.*", "_scale": ".*"}),
    Packing(
        "quanto", {"_scale": ".*", "_shift|_zeropoint": ".*"}
    ),  # of fewer bits: its data are in a tensor of their own
    Packing("torchao", {r"_\w+_qdata": ".*", r"_\w+_scale": ".*"}),
    Packing("PyTorch (torch.ao.quantization)", {"_packed_params.*": ".*"}),
    Packing("MXNet (contrib.quantization)", {".*_quantized?": "u?int8 .", ".*_quantized?_(min|max)": ".*"}),
    Packing(
        "PyTorch (FSDP), as one flat tensor of many",
        {"_?flat_param(_[0-9]+)?": ".* 1"},
        "Save it with StateDictType.FULL_STATE_DICT",
    ),
    Packing(
        "CuDNN, as one flat tensor of all weights of a recurrent layer",
        {"opaque_kernel": ".* 1"},
        "Save the net with tf.train.Saver, which takes it apart (as kernels and biases of cells)",
    ),
    Packing(
        "MXNet's fused cells, as one flat tensor of all weights of a recurrent layer",
        {".*(rnn_relu|rnn_tanh|lstm|gru)_parameters": ".* 1"},
        "Take it apart with unpack_weights of the mx.rnn.FusedRNNCell, and save that",
    ),
    Packing(
        "DeepSpeed ZeRO-3, which leaves placeholders without elements",
        {"weight": ".* 1 empty"},
        "Take the whole weights: 'zero_to_fp32.py' in the folder of the checkpoint makes them",
    ),
)
_COMPILED = tuple(
    (row, tuple((re.compile(name), re.compile(form)) for name, form in row.parts.items())) for row in PACKINGS
)
#: Of all names that one of the patterns may fit: most files have none of these and are done.
_TELLING = re.compile("|".join(f"(?:{name})" for row in PACKINGS for name in row.parts if name != "weight"))


class PackedLayer(msgspec.Struct, frozen=True):
    """A layer that is packed. specs: last name -> tensor; "" is the one that has the path itself for its name."""

    path: str
    packing: Packing
    specs: Mapping[str, TensorSpec]

    @property
    def name(self) -> str:
        return self.path or next(iter(self.specs))


def packed_layers(contents: Contents) -> list[PackedLayer]:
    """The layers whose tensors are not plain weights."""
    found = []
    for path, parts in _layers(contents.specs).items():
        described = {leaf: _described(spec) for leaf, spec in parts.items()}
        row = next((row for row, patterns in _COMPILED if _fits(patterns, described)), None)
        if row is not None:
            itself = {"": contents.by_name[path]} if path in contents.by_name else {}
            found.append(PackedLayer(path, row, {**parts, **itself}))
    return found


def refusal(layers: Iterable[PackedLayer]) -> Problem | None:
    """Why these layers cannot be read; None where each can be undone."""
    packed: dict[str, list[PackedLayer]] = {}
    for layer in layers:
        if layer.packing.unpack is None:
            packed.setdefault(layer.packing.title, []).append(layer)
    if not packed:
        return None
    title, those = max(packed.items(), key=lambda item: len(item[1]))
    count = f"{len(those)} layers are" if len(those) > 1 else "a layer is"
    names = listed([layer.name for layer in those])
    text = f"{count} packed by {title}, and not plain weights: {names}. This is not undone here."
    return Problem(f"{text} {those[0].packing.advice}.", "packed", those[0].name)


def _layers(specs: Iterable[TensorSpec]) -> Mapping[str, Mapping[str, TensorSpec]]:
    """The layers that may be packed: path -> last name of each tensor -> tensor.

    ``weight.absmax`` is of the layer, too, whose path is ``weight`` then.
    """
    layers: dict[str, dict[str, TensorSpec]] = {}
    telling = set()
    for spec in specs:
        path, leaf = _split(spec.name)
        layers.setdefault(path, {})[leaf] = spec
        if spec.shape == (0,) or _TELLING.fullmatch(leaf):
            telling.add(path)
    return {path: layers[path] for path in telling}


def _described(spec: TensorSpec) -> str:
    """Dtype, number of axes, and whether it is empty, as `Packing.parts` has them."""
    return f"{spec.dtype.name} {len(spec.shape)}{' empty' if spec.shape == (0,) else ''}"


def _split(name: str) -> tuple[str, str]:
    """``a.b.weight`` -> ``a.b``, ``weight``; after ``_packed_params`` and ``quant_state`` there is no other layer."""
    name = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")  # as TensorFlow's checkpoints of objects call it
    inner = re.search(r"[./](_packed_params|quant_state)[./]", name)
    at = inner.start() if inner else max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at >= 0 else ("", name)


def _fits(patterns: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...], parts: Mapping[str, str]) -> bool:
    return all(
        any(name.fullmatch(leaf) and form.match(what) for leaf, what in parts.items()) for name, form in patterns
    )
