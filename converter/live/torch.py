"""``torch.nn.Module``: tensors are those of its state_dict, and are copied into in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import ConversionError
from converter.frameworks.defaults import Value
from converter.live.base import EPSILON, Hyperparameters, LiveNet
from converter.live.watching import BeforeActivation, Record


def _average_pooling(layer: Any) -> Value | None:
    return bool(layer.count_include_pad) if np.any(layer.padding) else None


class Adapter(LiveNet):
    framework_name = "torch"
    package = "torch.nn."
    hyperparameters: ClassVar[Hyperparameters] = {
        "_BatchNorm": {
            "BatchNorm epsilon": lambda layer: layer.eps,
            # None is a plain average of all batches, which no momentum is
            "BatchNorm momentum (for training)": lambda layer: layer.momentum and round(1 - layer.momentum, 12),
        },
        **{name: {EPSILON: lambda layer: layer.eps} for name in ("_InstanceNorm", "LayerNorm")},
        "GroupNorm": {EPSILON: lambda layer: layer.eps, "GroupNorm groups": lambda layer: layer.num_groups},
        "RMSNorm": {"RMSNorm epsilon": lambda layer: 2.0**-23 if layer.eps is None else layer.eps},
        **{name: {"RNN activation": lambda layer: layer.nonlinearity} for name in ("RNN", "RNNCell")},
        "Embedding": {
            "Embedding padding index": lambda layer: "none" if layer.padding_idx is None else layer.padding_idx
        },
        "MultiheadAttention": {"attention to a key of zeros": lambda layer: layer.add_zero_attn},
        **{f"AvgPool{axes}d": {"average pooling with padding": _average_pooling} for axes in (1, 2, 3)},
        "LeakyReLU": {"LeakyReLU slope": lambda layer: layer.negative_slope},
        "GELU": {"GELU": lambda layer: "exact" if layer.approximate == "none" else layer.approximate},
    }

    def contents(self) -> Contents:
        from torch.nn.parameter import is_lazy

        for name, value in self.net.state_dict().items():
            if is_lazy(value):
                raise ConversionError(
                    f"'{name}' of the net has no shape yet (a lazy module). Call the net once on an example input."
                )
        return Contents(tuple(_spec(name, value) for name, value in self.net.state_dict().items()))

    def read(self, name: str) -> Array:
        import torch

        value = self.net.state_dict()[name].detach().cpu().contiguous()
        raw: Array = value.reshape(-1).view(torch.uint8).numpy()  # by way of bytes, as in `fill`
        return raw.view(_spec(name, value).dtype).reshape(tuple(value.shape)).copy()

    def modules(self) -> Iterable[tuple[str, Any]]:
        modules: Iterable[tuple[str, Any]] = self.net.named_modules()
        return modules

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

    def freeze(self, names: frozenset[str]) -> Any:
        for name, parameter in self.net.named_parameters(remove_duplicate=False):
            if name in names:
                parameter.requires_grad_(False)
                parameter.grad = None  # an optimizer would apply what was gathered before
        for path, module in self.net.named_modules():
            if f"{path}.running_mean".lstrip(".") in names:
                module.register_forward_pre_hook(_stay_in_eval)
        return self.net

    def make_concrete(self, inputs: Inputs) -> None:
        from torch.nn.parameter import is_lazy

        if any(map(is_lazy, self.net.state_dict().values())):
            with self.inference(), self.running(inputs):
                self.forward(inputs)

    def forward(self, inputs: Inputs) -> Any:
        import torch

        first = next((p for p in (*self.net.parameters(), *self.net.buffers())), None)
        device = first.device if first is not None else "cpu"
        with torch.no_grad():
            taken = inputs.map(lambda x: as_tensor(x).to(device))
            return self.net(*taken.args, **taken.keywords)

    def to_numpy(self, value: Any) -> Array | None:
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        here = value.detach().cpu()
        if here.dtype == torch.bfloat16:  # widened without loss, and back
            return np.asarray(here.float().numpy()).astype(DTYPES["bfloat16"])
        return np.array(here.numpy())

    @contextmanager
    def watching(self, watched: Collection[str], record: Record, before_activation: bool) -> Iterator[None]:
        from torch.nn.utils.parametrize import ParametrizationList

        before = BeforeActivation(record)

        def hook(name: str) -> Callable[..., None]:
            return lambda module, inputs, output: before(name, inputs, output)

        with ExitStack() as undo:
            for name, module in self.watched_modules(watched):
                if not isinstance(module, ParametrizationList):  # gives a weight, and no activation
                    undo.callback(module.register_forward_hook(hook(name)).remove)
                for child in _inside(module) if before_activation else ():
                    for handle in _before(child, name, before):
                        undo.callback(handle.remove)
            yield

    @contextmanager
    def inference(self) -> Iterator[None]:
        import torch

        mha = torch.backends.mha
        was = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)  # it would go past the layers inside
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        try:
            yield
        finally:
            mha.set_fastpath_enabled(was)
            for module, training in modes:
                module.training = training


def _inside(module: Any) -> Iterator[Any]:
    """What a layer with tensors of its own holds that has none: timm's norms end in an activation."""
    if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        yield from (child for child in module.children() if not child.state_dict())


def _before(child: Any, name: str, before: BeforeActivation) -> tuple[Any, Any]:
    taken: list[Any] = []

    def on_input(module: Any, inputs: Any) -> None:
        taken[:] = [x.clone() for x in inputs[:1]]  # which it may change in place

    def on_output(module: Any, inputs: Any, output: Any) -> None:
        before.activated(name, next(iter(taken), None), output)

    return child.register_forward_pre_hook(on_input), child.register_forward_hook(on_output)


def as_tensor(x: Array) -> Any:
    import torch

    if x.dtype.name == "bfloat16":  # which from_numpy does not know
        return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(x)


def _stay_in_eval(module: Any, inputs: Any) -> None:
    """As Keras does: a frozen BatchNorm goes on with its statistics, also while the net trains."""
    module.eval()


def _spec(name: str, value: Any) -> TensorSpec:
    return TensorSpec(name, tuple(value.shape), DTYPES[str(value.dtype).removeprefix("torch.")])
