"""``torch.nn.Module``: tensors are those of its state_dict, and are copied into in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from converter.errors import ConversionError
from converter.formats.base import Contents
from converter.live.base import LiveNet
from converter.tensors import DTYPES, Array, TensorSpec


class Adapter(LiveNet):
    framework_name = "torch"

    def contents(self) -> Contents:
        from torch.nn.parameter import is_lazy

        for name, value in self.net.state_dict().items():
            if is_lazy(value):
                raise ConversionError(
                    f"'{name}' of the net has no shape yet (a lazy module). Call the net once on an example input."
                )
        return Contents(tuple(_spec(name, value) for name, value in self.net.state_dict().items()))

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        import torch

        state = self.net.state_dict()  # its tensors share the memory of the net's own
        with torch.no_grad():
            for name, array in tensors:
                if array.size:
                    # by way of bytes, because from_numpy knows neither bfloat16 nor float8
                    raw = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8)
                    state[name].copy_(raw.view(state[name].dtype).reshape(array.shape))
        return self.net


def _spec(name: str, value: Any) -> TensorSpec:
    return TensorSpec(name, tuple(value.shape), DTYPES[str(value.dtype).removeprefix("torch.")])
