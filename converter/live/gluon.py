"""gluon ``Block``: parameters under their structural names, also those whose input size is not known yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from converter.formats.base import Contents
from converter.live.base import LiveNet
from converter.tensors import Array, TensorSpec


class Adapter(LiveNet):
    framework_name = "mxnet"

    def contents(self) -> Contents:
        return Contents(tuple(_spec(name, value) for name, value in self._parameters().items()))

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        import mxnet

        parameters = self._parameters()
        for name, array in tensors:
            parameter = parameters[name]
            make = mxnet.np.array if mxnet.util.is_np_array() else mxnet.nd.array
            value = make(np.array(array), dtype=array.dtype)
            # As Block.load_parameters does: it initialises what was never initialised, and checks the shape.
            parameter._load_init(value, parameter._ctx_list or [mxnet.cpu()])
        return self.net

    def _parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = self.net._collect_params_with_prefix()
        return found


def _spec(name: str, parameter: Any) -> TensorSpec:
    """A size of 0 (-1 under np semantics) is one that gluon infers from the first input."""
    shape = tuple(-1 if size < 1 else size for size in parameter.shape)
    return TensorSpec(name, shape, np.dtype(parameter.dtype))
