"""How fast quantized weights are computed, beside the packages that define them: `python -m benchmarks.dequantizing`.

For the environment that `tests.quantized.make` names. Each weight has 4096 x 4096 elements of random bits; both sides
take it from memory, and use one thread. Printed: millions of elements a second of either, by the median of ``ROUNDS``
runs that take turns, and how often as fast as the package the converter is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
import torch

from converter.core.tensors import TensorSpec
from converter.quantized import awq, bitsandbytes, compressed, gptq, mxfp4, scales
from converter.quantized.base import Packed, Unpack
from converter.quantized.ggml import BLOCK_TYPES, dequantized
from tests.quantized.make import fields

SIZE, GROUP, ROUNDS = 4096, 128, 5
GROUPS = SIZE // GROUP
Work = Callable[[], Any]
Row = tuple[str, Work, Work]


def ours(unpack: Unpack, settings: dict[str, Any] | None = None, **parts: Any) -> Work:
    arrays = {name: np.asarray(part) for name, part in parts.items()}
    specs = {name: TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items()}
    (unpacked,) = unpack(Packed(specs, arrays.__getitem__, settings))
    return lambda: unpacked.compute({name: arrays[name] for name in unpacked.used})


def words(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-(1 << 31), 1 << 31, shape).astype(np.int32)


def halves(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random(shape).astype(np.float16)


def packed_words() -> Iterator[Row]:
    for bits in (3, 4, 8):
        qweight, qzeros, scale = words(SIZE * bits // 32, SIZE), words(GROUPS, SIZE * bits // 32), halves(GROUPS, SIZE)
        g_idx = torch.arange(SIZE) // GROUP
        tensors = [torch.from_numpy(array) for array in (qweight, qzeros, scale)]

        def reference(tensors: list[torch.Tensor] = tensors, g_idx: torch.Tensor = g_idx, bits: int = bits) -> Any:
            weight, zeros = fields(tensors[0].T.contiguous(), bits).T, fields(tensors[1], bits) + 1
            return tensors[2][g_idx] * (weight - zeros[g_idx])

        parts = {"qweight": qweight, "qzeros": qzeros, "scales": scale}
        yield f"GPTQ, {bits} bits", ours(gptq.unpack, {}, **parts), reference
    qweight, qzeros, scale = words(SIZE, SIZE // 8), words(GROUPS, SIZE // 8), halves(GROUPS, SIZE)
    order = torch.arange(SIZE).view(-1, 8)[:, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(-1)

    def of_awq() -> Any:
        weight, zeros = (fields(torch.from_numpy(packed), 4)[:, order] for packed in (qweight, qzeros))
        return (weight - zeros.repeat_interleave(GROUP, 0)) * torch.from_numpy(scale).repeat_interleave(GROUP, 0)

    yield "AWQ", ours(awq.unpack, qweight=qweight, qzeros=qzeros, scales=scale), of_awq


def of_packages() -> Iterator[Row]:
    import bitsandbytes.functional as bnb
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    data, state = bnb.quantize_4bit(torch.randn(SIZE, SIZE), compress_statistics=True, quant_type="nf4")
    parts = {"_": data, **state.as_dict(packed=True)}
    yield (
        "bitsandbytes, NF4",
        ours(bitsandbytes.unpack_4_bits, **{name.strip("_"): part for name, part in parts.items()}),
        lambda: bnb.dequantize_4bit(data, state),
    )
    numbers, each = torch.randint(-127, 128, (SIZE, SIZE), dtype=torch.int8), torch.rand(SIZE)
    yield (
        "bitsandbytes, int8",
        ours(bitsandbytes.unpack_8_bits, weight=numbers, SCB=each),
        lambda: bnb.int8_vectorwise_dequant(numbers, each),
    )
    packed, scale = torch.from_numpy(words(SIZE, SIZE // 8)), torch.from_numpy(halves(SIZE, GROUPS))
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    shape = torch.tensor([SIZE, SIZE])
    yield (
        "compressed-tensors, int4",
        ours(compressed.unpack, weight_packed=packed, weight_scale=scale, weight_shape=shape),
        lambda: dequantize(unpack_from_int32(packed, 4, torch.Size((SIZE, SIZE))), scale, None, args),
    )
    channel = torch.rand(SIZE, 1)
    by_channel = QuantizationArgs(num_bits=8, strategy="channel")
    yield (
        "compressed-tensors, int8",
        ours(scales.unpack, weight=numbers, weight_scale=channel),
        lambda: dequantize(numbers, channel, None, by_channel),
    )
    blocks = torch.randint(0, 256, (1, SIZE, SIZE // 32, 16), dtype=torch.uint8)
    exponents = torch.randint(110, 140, (1, SIZE, SIZE // 32), dtype=torch.uint8)
    yield (
        "MXFP4 of gpt-oss",
        ours(mxfp4.unpack, w_blocks=blocks, w_scales=exponents),
        lambda: convert_moe_packed_tensors(blocks, exponents),
    )


def of_ggml() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for name, block in BLOCK_TYPES.items():
        if name == "Q8_K":  # the package has no formula for it
            continue
        data = rng.integers(0, 256, (SIZE * SIZE // block.elements, block.nbytes), dtype=np.uint8)
        rows, kind = data.reshape(SIZE, -1), gguf.GGMLQuantizationType[name]
        yield (
            f"GGUF, {name}",
            lambda data=data, block=block: dequantized(data, block),  # type: ignore[misc]
            lambda rows=rows, kind=kind: gguf.quants.dequantize(rows, kind),  # type: ignore[misc]
        )


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    print(f"{'packing':26}{'ours':>10}{'package':>10}{'ratio':>8}   (millions of elements a second)")
    for source in (packed_words, of_packages, of_ggml):
        for name, own, package in source():
            turns = [(seconds(own), seconds(package)) for _ in range(ROUNDS)]
            mine, theirs = (statistics.median(side) for side in zip(*turns, strict=True))
            print(
                f"{name:26}{SIZE**2 / mine / 1e6:10.0f}{SIZE**2 / theirs / 1e6:10.0f}{theirs / mine:8.2f}", flush=True
            )


if __name__ == "__main__":
    main()
