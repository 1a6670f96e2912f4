"""Run a live net once, in inference mode, and see what its layers give. Afterwards the net is as it was."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar

import numpy as np

from converter.errors import ConversionError
from converter.live import LiveNet, open_net
from converter.tensors import Array

__all__ = ["Forward", "Run", "module_of", "open_forward"]

#: Arguments by which users' nets are told that they do not train, and what they are given.
INFERENCE = {
    "training": False,
    "train": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


@dataclass
class Run:
    """What came out: the arrays of the net's output, each with its key or place; and of each watched module.

    calls: module -> its output arrays at each call, in the order in which the modules were first done.
    """

    outputs: dict[str, Array] = field(default_factory=dict)
    calls: dict[str, list[tuple[Array, ...]]] = field(default_factory=dict)


class Forward(ABC):
    """A live net that can be run. Modules are known by what stands before the names of their tensors."""

    def __init__(self, live: LiveNet) -> None:
        self.live = live

    def module(self, name: str) -> str:
        """The innermost module that holds the tensor of this name."""
        return module_of(name)

    def run(self, inputs: Sequence[Array], watched: Collection[str]) -> Run:
        """The outputs, as copies. Raises ConversionError when the net does not take these inputs."""
        found = Run()

        def record(module: str, output: Any) -> None:
            arrays = tuple(value for _, value in _arrays(output, self.to_numpy))
            if arrays:
                found.calls.setdefault(module, []).append(arrays)

        with ExitStack() as stack:
            stack.enter_context(self.inference())
            stack.enter_context(self.watching(watched, record))
            try:
                output = self.forward(inputs)
            except Exception as error:
                shapes = ", ".join(f"{x.dtype.name} {x.shape}" for x in inputs)
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise ConversionError(
                    f"the {self.live.framework.title} net does not run on {shapes}: {reason}"
                ) from error
            found.outputs = dict(_arrays(output, self.to_numpy))
        return found

    @abstractmethod
    def forward(self, inputs: Sequence[Array]) -> Any:
        """Call the net."""

    @abstractmethod
    def to_numpy(self, value: Any) -> Array | None:
        """A copy of a tensor, for it may be changed in place behind the layer; None for what holds no numbers yet."""

    @abstractmethod
    def watching(self, watched: Collection[str], record: Record) -> Any:
        """A context in which ``record`` is given the output of each call of these modules."""

    def inference(self) -> Any:
        """A context in which the net does not train."""
        return ExitStack()

    def watched_modules(self, watched: Collection[str]) -> Iterator[tuple[str, Any]]:
        return ((name, module) for name, module in self.live.modules() if name in watched)


Record = Callable[[str, Any], None]


def open_forward(net: object) -> Forward:
    """The net as one that can be run. Raises ConversionError for an object that cannot."""
    module, variables = _linen(net)
    if module is not None:
        return _Linen(module, open_net(variables))
    live = open_net(net)
    adapter = type(live).__module__.rpartition(".")[2]
    if adapter not in _FORWARDS:
        raise ConversionError(
            "the params tree of a Flax linen net cannot be run alone: give the pair (module, variables), "
            "or the bound module that module.bind(variables) makes"
        )
    return _FORWARDS[adapter](live)


def module_of(name: str) -> str:
    """``a.b.weight`` is in ``a.b``; names of other frameworks have ``/`` instead."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def _linen(net: Any) -> tuple[Any, Any]:
    """The module and its variables, from a pair or a bound module; (None, None) for anything else."""
    if isinstance(net, tuple) and len(net) == 2 and _is_linen(net[0]):
        return net
    if _is_linen(net):
        if net.scope is None:
            raise ConversionError(
                "a Flax linen module alone has no weights: give the pair (module, variables), "
                "or the bound module that module.bind(variables) makes"
            )
        module, variables = net.unbind()
        return module, variables
    return None, None


def _is_linen(net: object) -> bool:
    return any(base.__module__ == "flax.linen.module" and base.__name__ == "Module" for base in type(net).__mro__)


def _arrays(value: Any, to_numpy: Callable[[Any], Array | None], key: str = "") -> Iterator[tuple[str, Array]]:
    """The arrays in nested tuples, lists and dicts, under their keys or places."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple | list):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    else:
        array = to_numpy(value)
        if array is not None:
            yield key, array
        return
    for name, item in items:
        yield from _arrays(item, to_numpy, f"{key}.{name}" if key else str(name))


def _options(function: Callable[..., Any]) -> dict[str, bool]:
    """What tells this net that it does not train."""
    return {name: INFERENCE[name] for name in inspect.signature(function).parameters if name in INFERENCE}


@contextmanager
def _attributes(changes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes (owner, name, value) as they shall be within, and as they were behind."""
    missing = object()
    with ExitStack() as undo:
        for owner, name, value in changes:
            undo.callback(_restore, owner, name, vars(owner).get(name, missing), missing)
            setattr(owner, name, value)
        yield


def _restore(owner: Any, name: str, value: Any, missing: object) -> None:
    if value is missing:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _recorded(call: Callable[..., Any], names: Mapping[int, str], record: Record) -> Callable[..., Any]:
    """A ``__call__`` that also records; once, though the class may call that of its base class."""
    active: set[int] = set()

    @wraps(call)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self) not in names or id(self) in active:
            return call(self, *args, **kwargs)
        active.add(id(self))
        try:
            output = call(self, *args, **kwargs)
        finally:
            active.discard(id(self))
        record(names[id(self)], output)
        return output

    return recorded


class _Fused:
    """Layers that end in an activation are compared before it, as where it is a layer of its own."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._last: dict[str, tuple[Any, Any]] = {}

    def activated(self, module: str, given: Any, output: Any) -> None:
        self._last[module] = (given, output)

    def __call__(self, module: str, output: Any) -> None:
        given, activated = self._last.pop(module, (None, None))
        self._record(module, given if output is activated and output is not None else output)


class _Torch(Forward):
    def forward(self, inputs: Sequence[Array]) -> Any:
        import torch

        first = next((p for p in (*self.live.net.parameters(), *self.live.net.buffers())), None)
        device = first.device if first is not None else "cpu"
        with torch.no_grad():
            return self.live.net(*(self._tensor(x).to(device) for x in inputs))

    @staticmethod
    def _tensor(x: Array) -> Any:
        import torch

        if x.dtype.name == "bfloat16":  # which from_numpy does not know
            return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
        return torch.tensor(x)

    def to_numpy(self, value: Any) -> Array | None:
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        here = value.detach().cpu()
        if here.dtype == torch.bfloat16:  # widened without loss, and back
            import ml_dtypes

            return here.float().numpy().astype(ml_dtypes.bfloat16)
        return np.array(here.numpy())

    @contextmanager
    def watching(self, watched: Collection[str], record: Record) -> Iterator[None]:
        from torch.nn.utils.parametrize import ParametrizationList

        def hook(name: str) -> Callable[..., None]:
            return lambda module, given, output: record(name, output)

        with ExitStack() as undo:
            for name, module in self.watched_modules(watched):
                if not isinstance(module, ParametrizationList):  # gives a weight, and no activation
                    undo.callback(module.register_forward_hook(hook(name)).remove)
            yield

    @contextmanager
    def inference(self) -> Iterator[None]:
        import torch

        mha = torch.backends.mha
        was = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)  # it would go past the layers inside
        modes = [(module, module.training) for module in self.live.net.modules()]
        self.live.net.eval()
        try:
            yield
        finally:
            mha.set_fastpath_enabled(was)
            for module, training in modes:
                module.training = training


class _Keras(Forward):
    def forward(self, inputs: Sequence[Array]) -> Any:
        net = self.live.net
        tensors = [self._tensor(x) for x in inputs]
        several = len(getattr(net, "inputs", None) or ()) > 1
        return net(*([tensors] if several else tensors), **_options(net.call))

    def _tensor(self, x: Array) -> Any:
        if self._is_keras3:
            import keras

            return keras.ops.convert_to_tensor(x)
        import tensorflow

        return tensorflow.constant(x)

    @property
    def _base(self) -> Any:
        """The class ``Layer`` of the library that the net is of."""
        return next(base for base in type(self.live.net).__mro__ if base.__name__ == "Layer")

    @property
    def _is_keras3(self) -> bool:
        return str(self._base.__module__).startswith("keras.")

    def to_numpy(self, value: Any) -> Array | None:
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            return None
        try:
            if self._is_keras3:
                import keras

                return np.array(keras.ops.convert_to_numpy(value))
            return np.array(value.numpy())
        except (AttributeError, NotImplementedError, ValueError):  # a symbol of a graph that is being built
            return None

    @contextmanager
    def watching(self, watched: Collection[str], record: Record) -> Iterator[None]:
        fused = _Fused(record)
        names: dict[int, str] = {}
        with ExitStack() as undo:
            for name, layer in self.watched_modules(watched):
                names[id(layer)] = name
                activation = vars(layer).get("activation")
                if callable(activation):
                    vars(layer)["activation"] = _seen(activation, name, fused)
                    undo.callback(vars(layer).__setitem__, "activation", activation)
            base = self._base
            undo.enter_context(_attributes([(base, "__call__", _recorded(base.__call__, names, fused))]))
            yield


def _seen(activation: Callable[..., Any], name: str, fused: _Fused) -> Callable[..., Any]:
    @wraps(activation)
    def seen(given: Any, *args: Any, **kwargs: Any) -> Any:
        output = activation(given, *args, **kwargs)
        fused.activated(name, given, output)
        return output

    return seen


class _Jax(Forward):
    def to_numpy(self, value: Any) -> Array | None:
        import jax

        if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array | np.ndarray):
            return None  # a tracer: within a scan
        return np.array(value)


class _Linen(_Jax):
    def __init__(self, module: Any, live: LiveNet) -> None:
        super().__init__(live)
        self._module = module

    def module(self, name: str) -> str:
        return module_of(name.partition("/")[2])  # without the collection

    def forward(self, inputs: Sequence[Array]) -> Any:
        import jax.numpy as jnp

        options = _options(type(self._module).__call__)
        return self._module.apply(self.live.net, *map(jnp.asarray, inputs), **options)

    @contextmanager
    def watching(self, watched: Collection[str], record: Record) -> Iterator[None]:
        from flax import linen

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            name = "/".join(context.module.path)
            if context.method_name == "__call__" and name in watched:
                record(name, output)
            return output

        with linen.intercept_methods(intercept):
            yield


class _Nnx(_Jax):
    #: what `Module.eval` sets
    _MODES: ClassVar[tuple[str, ...]] = ("deterministic", "use_running_average")

    def forward(self, inputs: Sequence[Array]) -> Any:
        import jax.numpy as jnp

        return self.live.net(*map(jnp.asarray, inputs), **_options(type(self.live.net).__call__))

    @contextmanager
    def inference(self) -> Iterator[None]:
        from flax import nnx

        modules = [module for _, module in nnx.iter_modules(self.live.net)]
        modes = [(m, name, vars(m)[name]) for m in modules for name in self._MODES if name in vars(m)]
        self.live.net.eval()
        try:
            yield
        finally:
            for module, name, value in modes:
                setattr(module, name, value)

    @contextmanager
    def watching(self, watched: Collection[str], record: Record) -> Iterator[None]:
        modules = [(name, module) for name, module in self.watched_modules(watched) if callable(module)]
        names = {id(module): name for name, module in modules}
        classes = dict.fromkeys(type(module) for _, module in modules)
        calls = [(each, "__call__", _recorded(each.__call__, names, record)) for each in classes]
        with _attributes(calls):
            yield


class _Gluon(Forward):
    def forward(self, inputs: Sequence[Array]) -> Any:
        import mxnet

        make = mxnet.np.array if mxnet.util.is_np_array() else mxnet.nd.array
        parameters = self.live.net.collect_params().values()
        context = next((p.list_ctx()[0] for p in parameters), mxnet.cpu())
        with mxnet.autograd.predict_mode(), mxnet.autograd.pause(train_mode=False):
            return self.live.net(*(make(x, dtype=x.dtype, ctx=context) for x in inputs))

    def to_numpy(self, value: Any) -> Array | None:
        return np.array(value.asnumpy()) if hasattr(value, "asnumpy") else None

    @contextmanager
    def watching(self, watched: Collection[str], record: Record) -> Iterator[None]:
        fused = _Fused(record)

        def on_call(name: str) -> Callable[..., None]:
            return lambda block, given, output: fused(name, output)

        def on_activation(name: str) -> Callable[..., None]:
            return lambda block, given, output: fused.activated(name, given[0], output)

        with ExitStack() as undo:
            for name, block in self.watched_modules(watched):
                undo.callback(block.register_forward_hook(on_call(name)).detach)
                activation = getattr(block, "act", None)
                if activation is not None and hasattr(activation, "register_forward_hook"):
                    undo.callback(activation.register_forward_hook(on_activation(name)).detach)
            yield

    def inference(self) -> Any:
        """Hybridized blocks run as one graph, in which no block inside is called."""
        blocks = [block for _, block in self.live.modules() if getattr(block, "_active", False)]
        return _attributes((block, "_active", False) for block in blocks)


_FORWARDS: Mapping[str, Callable[[LiveNet], Forward]] = {
    "torch": _Torch,
    "keras": _Keras,
    "nnx": _Nnx,
    "gluon": _Gluon,
}
