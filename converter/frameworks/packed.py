"""Tensors that are packed or cut to pieces, so that their elements are not the weights of a net: known by what stands
beside them in a layer, whatever file they are in, to be refused with the name of the packing.

One row for each packing, with where its names come from: GPTQ and AWQ (auto_gptq, autoawq), EXL2, HQQ, AQLM,
bitsandbytes (``Params4bit.as_dict``, ``Int8Params``), compressed-tensors, FP8 (DeepSeek, vLLM, ModelOpt), MXFP4
(gpt-oss), MLX, quanto, PyTorch (``torch.ao.quantization``, FSDP), DeepSpeed and MXNet (``contrib.quantization``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.errors import Problem, listed

__all__ = ["PACKINGS", "Packing", "refusal"]

_UNPACK = "Load it with the library that packed it, make its weights plain there (dequantize), and save those"
_MERGE = "Save the whole weights first"


class Packing(msgspec.Struct, frozen=True):
    """parts: what a layer has all of: pattern of the name of a tensor -> pattern of its dtype and number of axes, such
    as ``int32 2``. advice: how to get at the plain weights.
    """

    title: str
    parts: Mapping[str, str]
    advice: str = _UNPACK


#: The first that fits a layer names it.
PACKINGS: tuple[Packing, ...] = (
    Packing("GPTQ", {"qweight": "u?int32 .", "qzeros": ".*", "scales": ".*", "g_idx": ".*"}),
    Packing("AWQ, or GPTQ without an order of groups", {"qweight": "u?int.*", "qzeros": ".*", "scales": ".*"}),
    Packing("integers with scales", {"qweight": "u?int.*", ".*scales?": ".*"}),
    Packing("EXL2", {"q_weight": "u?int.*", "q_scale.*": ".*"}),
    Packing("HQQ", {"W_q": "u?int.*"}),
    Packing("AQLM", {"codes": "u?int.*", "codebooks": ".*"}),
    Packing("bitsandbytes (4 bits)", {"absmax": ".*", "(nested_)?quant_map": ".*"}),
    Packing("bitsandbytes (4 bits)", {"quant_state.*|bitsandbytes__(nf4|fp4)": ".*"}),
    Packing("bitsandbytes (8 bits)", {"weight": "int8 .", "SCB": ".*"}),
    Packing("compressed-tensors", {"weight_packed": "u?int.*", "weight_scale": ".*"}),
    Packing("FP8 with scales", {"weight": "float8.*", "(weight|input)_scale(_inv|_2)?|scale_weight|scale_inv": ".*"}),
    Packing(
        "integers with scales", {"weight": "u?int.*", "weight_scale(_inv|_2)?|weight_zero_point|scale_weight": ".*"}
    ),
    Packing("MXFP4", {".*_blocks": "uint8 .", ".*_scales": "uint8 ."}),
    Packing("MLX", {"weight": "uint32 2", "scales": "b?float.*"}),
    Packing("quanto", {"_data": "u?int.*|float8.*", "_scale": ".*"}),
    Packing(
        "quanto", {"_scale": ".*", "_shift|_zeropoint": ".*"}
    ),  # of fewer bits: its data are in a tensor of their own
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


def refusal(contents: Contents) -> Problem | None:
    """Why the tensors of a file are not plain weights; None where nothing speaks against it."""
    packed: dict[str, list[str]] = {}
    titles: dict[str, Packing] = {}
    for path, parts in _layers(contents.specs).items():
        row = next((row for row, patterns in _COMPILED if _fits(patterns, parts)), None)
        if row is not None:
            titles[row.title] = row
            packed.setdefault(row.title, []).append(path or next(iter(parts)))
    if not packed:
        return None
    title, paths = max(packed.items(), key=lambda item: len(item[1]))
    count = f"{len(paths)} layers are" if len(paths) > 1 else "a layer is"
    text = f"{count} packed by {title}, and not plain weights: {listed(paths)}. This is not undone here."
    return Problem(f"{text} {titles[title].advice}.", "packed", paths[0])


def _layers(specs: Iterable[TensorSpec]) -> Mapping[str, Mapping[str, str]]:
    """The layers that may be packed: path -> name of each tensor -> its dtype, number of axes, and whether it is empty.

    ``weight.absmax`` is of the layer, too, whose path is ``weight`` then.
    """
    layers: dict[str, dict[str, str]] = {}
    telling = set()
    for spec in specs:
        path, leaf = _split(spec.name)
        empty = " empty" if spec.shape == (0,) else ""
        layers.setdefault(path, {})[leaf] = f"{spec.dtype.name} {len(spec.shape)}{empty}"
        if empty or _TELLING.fullmatch(leaf):
            telling.add(path)
    return {path: layers[path] for path in telling}


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
