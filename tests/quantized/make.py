"""Write the samples of quantized tensors, with what the packages that define them make of these.

    python -m tests.quantized.make

For an environment of its own: torch==2.13.0, bitsandbytes==0.50.2, compressed-tensors==0.20.1, transformers==5.24.0,
gguf==0.19.0, and the packages that the converter needs. AutoGPTQ and AutoAWQ do not install there: their formulas are
copied here, with the names of the files. Each sample is a folder: the checkpoint, and ``expected.safetensors``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "samples" / "quantized"
Tensors = dict[str, torch.Tensor]
_WORDS = torch.iinfo(torch.int32)


def write(name: str, packed: Tensors, expected: Tensors, config: dict[str, Any] | None) -> None:
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, tensors in (("model", packed), ("expected", expected)):
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / f"{file}.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


def words(*shape: int) -> torch.Tensor:
    return torch.randint(_WORDS.min, _WORDS.max, shape, dtype=torch.int64).to(torch.int32)


# -- GPTQ: AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py ------------------------------------------------------

_THREE = [
    [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0],
    [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31],
    [0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0],
]


def fields(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """[rows, words] -> [rows, fields], as that file does it along either axis."""
    if bits != 3:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        apart = torch.bitwise_right_shift(packed[:, :, None], shifts).to(torch.int16 if bits == 8 else torch.int8)
        return torch.bitwise_and(apart, 2**bits - 1).reshape(len(packed), -1)
    apart = packed.reshape(len(packed), -1, 3, 1).expand(-1, -1, -1, 12) >> torch.tensor(_THREE, dtype=torch.int32)
    apart[:, :, 0, 10] = (apart[:, :, 0, 10] & 0x3) | ((apart[:, :, 1, 0] << 2) & 0x4)
    apart[:, :, 1, 11] = (apart[:, :, 1, 11] & 0x1) | ((apart[:, :, 2, 0] << 1) & 0x6)
    apart = apart & 0x7
    joined = torch.cat([apart[:, :, 0, :11], apart[:, :, 1, 1:12], apart[:, :, 2, 1:11]], dim=2)
    return joined.reshape(len(packed), -1)


def gptq(bits: int, version: str, order: bool) -> None:
    inputs, outputs, groups = 96, 64, 3
    qweight, qzeros = words(inputs * bits // 32, outputs), words(groups, outputs * bits // 32)
    scales = torch.rand(groups, outputs).half()
    g_idx = (torch.randperm(inputs) % groups if order else torch.arange(inputs) // (inputs // groups)).to(torch.int32)
    zeros = fields(qzeros, bits) + (0 if version == "gptq_v2" else 1)
    weight = fields(qweight.T.contiguous(), bits).T
    plain = scales[g_idx.long()] * (weight - zeros[g_idx.long()])
    packed = {"a.fc.qweight": qweight, "a.fc.qzeros": qzeros, "a.fc.scales": scales, "a.fc.bias": torch.rand(outputs)}
    if order or bits == 8:
        packed["a.fc.g_idx"] = g_idx
    config = {"quant_method": "gptq", "bits": bits, "group_size": inputs // groups, "checkpoint_format": version}
    write(f"gptq_{bits}_{version}", packed, {"a.fc.weight": plain.T}, config)


# -- AWQ: AutoAWQ, awq/utils/packing_utils.py --------------------------------------------------------------------------


def awq() -> None:
    inputs, outputs, groups = 64, 48, 2
    qweight, qzeros, scales = words(inputs, outputs // 8), words(groups, outputs // 8), torch.rand(groups, outputs)
    order = torch.arange(outputs).view(-1, 8)[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(-1)
    weight, zeros = (fields(packed, 4)[:, order] for packed in (qweight, qzeros))
    scales, size = scales.half(), inputs // groups
    plain = (weight - zeros.repeat_interleave(size, 0)) * scales.repeat_interleave(size, 0)
    packed = {"a.fc.qweight": qweight, "a.fc.qzeros": qzeros, "a.fc.scales": scales}
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
    write("awq", packed, {"a.fc.weight": plain.T}, config)


# -- bitsandbytes ------------------------------------------------------------------------------------------------------


def bitsandbytes() -> None:
    import bitsandbytes.functional as bnb

    # Its kernel for CPUs takes another factor where rows are no whole blocks (64 inputs, blocks of 128), and then is
    # further from what was quantized than the values that are meant: rows here are whole blocks, or uneven.
    for kind, dtype, nested, size in (("nf4", torch.float32, True, 64), ("fp4", torch.float32, False, 128)):
        weight = torch.randn(*((96, 40) if nested else (32, 128))).to(dtype)
        data, state = bnb.quantize_4bit(weight, blocksize=size, compress_statistics=nested, quant_type=kind)
        packed = {"a.fc.weight": data, **{f"a.fc.weight.{key}": item for key, item in state.as_dict(True).items()}}
        write(f"bitsandbytes_{kind}", packed, {"a.fc.weight": bnb.dequantize_4bit(data, state)}, None)
    data = torch.randint(-127, 128, (24, 40), dtype=torch.int8)
    scales = torch.rand(24)
    plain = bnb.int8_vectorwise_dequant(data, scales)
    packed = {"a.fc.weight": data, "a.fc.SCB": scales, "a.fc.weight_format": torch.tensor(0, dtype=torch.uint8)}
    write("bitsandbytes_int8", packed, {"a.fc.weight": plain}, None)


# -- compressed-tensors ------------------------------------------------------------------------------------------------


def compressed() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    rows = (
        ("int4_group", 4, "group", (48, 4), torch.bfloat16, True),
        ("int4_channel", 4, "channel", (48, 1), torch.float16, False),
        ("int8_channel", 8, "channel", (48, 1), torch.bfloat16, True),
        ("int8_tensor", 8, "tensor", (1,), torch.float32, False),
    )
    for name, bits, strategy, shape, dtype, shifted in rows:
        half = 1 << bits - 1
        data = torch.randint(-half, half, (48, 64), dtype=torch.int8)
        scales = torch.rand(shape).to(dtype)
        zeros = torch.randint(-half, half, shape, dtype=torch.int8) if shifted else None
        args = {"num_bits": bits, "strategy": strategy, "symmetric": not shifted}
        of_args = QuantizationArgs(**args, group_size=16 if strategy == "group" else None)
        plain = dequantize(data, scales, zeros, of_args)
        packed = {"a.fc.weight_packed": pack_to_int32(data, bits), "a.fc.weight_shape": torch.tensor([48, 64])}
        packed["a.fc.weight_scale"] = scales
        if zeros is not None:
            packed["a.fc.weight_zero_point"] = pack_to_int32(zeros, bits, packed_dim=0)
        config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}
        write(f"compressed_{name}", packed, {"a.fc.weight": plain}, config)
        if bits == 8:
            plain_parts = {"a.fc.weight": data, "a.fc.weight_scale": scales}
            plain_parts |= {"a.fc.weight_zero_point": zeros} if zeros is not None else {}
            write(f"naive_{name}", plain_parts, {"a.fc.weight": plain}, {**config, "format": "int-quantized"})
    for strategy, shape in (("tensor", (1,)), ("channel", (48, 1)), ("group", (48, 4))):
        data, scales = torch.randn(48, 64).to(torch.float8_e4m3fn), torch.rand(shape).to(torch.bfloat16)
        size = 16 if strategy == "group" else None
        args8 = QuantizationArgs(num_bits=8, type="float", strategy=strategy, group_size=size)
        parts = {"a.fc.weight": data, "a.fc.weight_scale": scales, "a.fc.input_scale": torch.rand(1)}
        write(f"fp8_{strategy}", parts, {"a.fc.weight": dequantize(data, scales, None, args8)}, None)


def block_fp8() -> None:
    """DeepSeek-V3, inference/kernel.py (weight_dequant_kernel): x.to(float32) * s, the blocks at the ends cut off."""
    data, scales = torch.randn(200, 150).to(torch.float8_e4m3fn), torch.rand(2, 2)
    wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:200, :150]
    parts = {"a.fc.weight": data, "a.fc.weight_scale_inv": scales}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    write("fp8_block", parts, {"a.fc.weight": data.float() * wide}, config)


def mxfp4() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8)
    scales = torch.randint(110, 140, (2, 6, 3), dtype=torch.uint8)
    parts = {"a.experts.w_blocks": blocks, "a.experts.w_scales": scales, "a.experts.w_bias": torch.rand(2, 6)}
    write("mxfp4", parts, {"a.experts.w": convert_moe_packed_tensors(blocks, scales)}, None)


# -- GGUF --------------------------------------------------------------------------------------------------------------


def gguf_types() -> None:
    """All types of blocks that the package dequantizes and the converter reads, of random bytes with sane scales."""
    import gguf

    from converter.quantized.ggml import BLOCK_TYPES

    folder = FOLDER / "gguf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü", ""])
    rng = np.random.default_rng(0)
    expected: Tensors = {}
    for name, block in BLOCK_TYPES.items():
        if name == "Q8_K":  # the package has no formula for it
            continue
        kind = gguf.GGMLQuantizationType[name]
        raw = rng.integers(0, 256, (3, 2 * block.nbytes), dtype=np.uint8)
        plain = gguf.quants.dequantize(raw, kind)
        while not np.isfinite(plain).all():  # a scale that is none
            raw = rng.integers(0, 256, raw.shape, dtype=np.uint8)
            plain = gguf.quants.dequantize(raw, kind)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
        expected[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(plain))
    for dtype in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64):
        array = rng.integers(-100, 100, (3, 5)).astype(dtype)
        writer.add_tensor(f"{array.dtype.name}.weight", array)
        expected[f"{array.dtype.name}.weight"] = torch.from_numpy(array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, folder / "expected.safetensors")


def gguf_plain() -> None:
    """Elements alone: what the converter writes of the same is the same file."""
    import gguf

    folder = FOLDER / "gguf_plain"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    rng = np.random.default_rng(1)
    tensors = {f"blk.{i}.attn_q.weight": rng.normal(size=(3 + i, 5)).astype(np.float32) for i in range(3)}
    tensors["output_norm.weight"] = rng.normal(size=7).astype(np.float32)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file({name: torch.from_numpy(array) for name, array in tensors.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    for bits in (2, 3, 4, 8):
        gptq(bits, "gptq", order=bits in (3, 4))
        gptq(bits, "gptq_v2", order=bits == 2)
    awq()
    bitsandbytes()
    compressed()
    block_fp8()
    mxfp4()
    gguf_types()
    gguf_plain()
