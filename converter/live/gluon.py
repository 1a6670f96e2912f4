"""gluon ``Block``: parameters under their structural names, also those whose input size is not known yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError
from converter.frameworks.defaults import Value
from converter.live.base import EPSILON, Hyperparameters, LiveNet, gates
from converter.live.watching import BeforeActivation, Record, attributes


def _average_pooling(layer: Any) -> Value | None:
    return bool(layer._kwargs["count_include_pad"]) if any(layer._kwargs["pad"]) else None


class Adapter(LiveNet):
    framework_name = "mxnet"
    package = "mxnet.gluon."
    hyperparameters: ClassVar[Hyperparameters] = {
        "BatchNorm": {
            "BatchNorm epsilon": lambda layer: layer._kwargs["eps"],
            "BatchNorm momentum (for training)": lambda layer: layer._kwargs["momentum"],
        },
        **{name: {EPSILON: lambda layer: layer._epsilon} for name in ("LayerNorm", "InstanceNorm")},
        "GroupNorm": {EPSILON: lambda layer: layer._epsilon, "GroupNorm groups": lambda layer: layer._num_groups},
        "RNN": {"RNN activation": lambda layer: layer._mode.removeprefix("rnn_")},
        "RNNCell": {"RNN activation": lambda layer: layer._activation},
        "LSTMCell": gates("LSTM", "_activation", "_recurrent_activation"),
        **{f"AvgPool{axes}D": {"average pooling with padding": _average_pooling} for axes in (1, 2, 3)},
        "LeakyReLU": {"LeakyReLU slope": lambda layer: layer._alpha},
        "GELU": {"GELU": lambda layer: "exact"},
    }

    def contents(self) -> Contents:
        return Contents(tuple(_spec(name, value) for name, value in self._parameters().items()))

    def spelled(self, class_name: str) -> str:
        return class_name.lower()

    def class_of(self, module: Any) -> str:
        name = super().class_of(module)
        return "batchnorm_fix_gamma" if name == "batchnorm" and module._kwargs["fix_gamma"] else name

    def read(self, name: str) -> Array:
        parameter = self._parameters()[name]
        if parameter._data is None:
            raise ConversionError(
                f"'{name}' of the net has no values yet. Call initialize(), and the net once on an example input."
            )
        return np.array(parameter.data().asnumpy())

    def modules(self) -> Iterable[tuple[str, Any]]:
        return _blocks(self.net, "")

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

    def freeze(self, names: frozenset[str]) -> Any:
        parameters = self._parameters()
        frozen = {id(parameters[name]) for name in names}
        for name in names:
            parameters[name].grad_req = "null"
        for _, block in self.modules():
            if id(getattr(block, "running_mean", None)) in frozen:
                block._kwargs["use_global_stats"] = True  # else they move with every batch
            if hasattr(block, "_clear_cached_op"):
                block._clear_cached_op()  # a graph that was made before
        return self.net

    def make_concrete(self, inputs: Inputs) -> None:
        if any(-1 in spec.shape for spec in self.contents().specs):
            if any(parameter._data is None and not parameter._deferred_init for parameter in self._all()):
                self.net.initialize()
            with self.running(inputs):
                self.forward(inputs)

    def forward(self, inputs: Inputs) -> Any:
        import mxnet

        make = mxnet.np.array if mxnet.util.is_np_array() else mxnet.nd.array
        context = next((parameter.list_ctx()[0] for parameter in self._all()), mxnet.cpu())
        if inputs.keywords:
            raise ConversionError(
                "gluon calls its blocks by position: give the example input as a tuple, not as a dict."
            )
        taken = inputs.map(lambda x: make(x, dtype=x.dtype, ctx=context))
        with mxnet.autograd.predict_mode(), mxnet.autograd.pause(train_mode=False):
            return self.net(*taken.args)

    def _all(self) -> Iterable[Any]:
        parameters: Iterable[Any] = self.net.collect_params().values()
        return parameters

    def to_numpy(self, value: Any) -> Array | None:
        return np.array(value.asnumpy()) if hasattr(value, "asnumpy") else None

    @contextmanager
    def watching(self, watched: Collection[str], record: Record, before_activation: bool) -> Iterator[None]:
        before = BeforeActivation(record)

        def on_call(name: str) -> Callable[..., None]:
            return lambda block, inputs, output: before(name, inputs, output)

        def on_activation(name: str) -> Callable[..., None]:
            return lambda block, inputs, output: before.activated(name, inputs[0], output)

        with ExitStack() as undo:
            for name, block in self.watched_modules(watched):
                undo.callback(block.register_forward_hook(on_call(name)).detach)
                activation = getattr(block, "act", None)
                if before_activation and activation is not None and hasattr(activation, "register_forward_hook"):
                    undo.callback(activation.register_forward_hook(on_activation(name)).detach)
            yield

    def inference(self) -> AbstractContextManager[object]:
        """Hybridized blocks run as one graph, in which no block inside is called."""
        blocks = [block for _, block in self.modules() if getattr(block, "_active", False)]
        return attributes((block, "_active", False) for block in blocks)

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.net._collect_params_with_prefix()
        return parameters


def _blocks(block: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """As `Block._collect_params_with_prefix` names them."""
    yield prefix, block
    for name, child in block._children.items():
        yield from _blocks(child, f"{prefix}.{name}" if prefix else name)


def _spec(name: str, parameter: Any) -> TensorSpec:
    """A size of 0 (-1 under np semantics) is one that gluon infers from the first input."""
    shape = tuple(-1 if size < 1 else size for size in parameter.shape)
    return TensorSpec(name, shape, np.dtype(parameter.dtype))
