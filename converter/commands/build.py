"""`build` and `scaffold`: live nets, and their code, from an architecture as data and from weights."""

from __future__ import annotations

import os
import sys
import types
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from converter.architectures.codegen import source_of
from converter.architectures.document import Architecture, Input, decoded
from converter.architectures.instance import described_by, of_schema, resolve, schema_of
from converter.architectures.neutral_file import names_in, shapes_of
from converter.architectures.units import Shapes, Units
from converter.commands.convert import load_into
from converter.core.tensors import Array
from converter.endpoints.endpoint import Endpoint, opened
from converter.errors import CloneWarning, ConversionError
from converter.execution.jobs import compute
from converter.frameworks import framework as framework_of
from converter.frameworks.neutral import architecture_in
from converter.live.run import as_arrays
from converter.matching.hints import Hints
from converter.options import MatchOptions, StrPath
from converter.planning.layout import plan_new
from converter.planning.prepare import prepared
from converter.schema.loader import Schema, load_schema


def build(
    architecture: StrPath | Architecture,
    framework: str,
    weights: StrPath | object | None = None,
    *,
    input: Iterable[int | None] = (),
    sizes: Mapping[str, int] | None = None,
    weights_from: str | None = None,
) -> Any:
    """A live net of an architecture in any framework: ``build("lenet", "flax", weights="lenet.pt")``.

    architecture: the name of a shipped schema, a schema file (``.yaml``), a neutral file that holds one beside its
    weights, or what `converter.architecture` made. weights: a file of any framework, or a live net; by default those
    of the neutral file. A net without weights is as its framework makes it.
    input: the sizes of an input, channels first and without the batch (None: any), where they are not those that the
    architecture says. sizes: path of a layer -> another number of outputs, for a net without weights
    (``{"output": 100}``). weights_from: whose names the weights have, where their format leaves that open.

    Returns a ``torch.nn.Module`` (in eval mode, if it has weights), a Keras 3 model, a gluon ``HybridBlock``, or of
    Flax linen the pair (module, variables). Its layers are called as the schema has them in that framework. Raises
    ConversionError.
    """
    target = framework_of(framework)
    if target.name == "neutral":
        raise ConversionError("build: neutral is no framework. Say torch, tensorflow, flax or mxnet.")
    with ExitStack() as stack:
        plan = _described(architecture, weights, tuple(input), sizes or {}, weights_from, stack)
        net = _made(source_of(plan.architecture, plan.units, target.name), plan.architecture.name, target.title)
        return _FINISHED[target.name](net, plan)


def scaffold(
    architecture: StrPath | Architecture,
    framework: str,
    weights: StrPath | object | None = None,
    *,
    input: Iterable[int | None] = (),
    sizes: Mapping[str, int] | None = None,
    weights_from: str | None = None,
) -> str:
    """The code of the net that `build` makes, which needs nothing but its framework. Raises ConversionError."""
    target = framework_of(framework)
    if target.name == "neutral":
        raise ConversionError("scaffold: neutral is no framework. Say torch, tensorflow, flax or mxnet.")
    with ExitStack() as stack:
        plan = _described(architecture, weights, tuple(input), sizes or {}, weights_from, stack)
        return source_of(plan.architecture, plan.units, target.name)


def architecture(net: object, *, example_input: Any = None) -> Architecture:
    """What a live net computes, in the closed vocabulary: data that `build`, `scaffold` and `converter.save` take.

    net: one of PyTorch that `torch.fx` can trace, of Keras 3, a gluon block that takes symbols (hybrid blocks do), or
    of Flax linen the pair (module, variables). example_input: an array that it takes; what waits for a shape, or
    depends on the size of the input, needs it, and so does every net of Flax. Printed, an architecture is in the
    notation of schema files. Raises ConversionError that names what is outside of the vocabulary.
    """
    from converter.architectures.capture import capture

    if isinstance(net, str | os.PathLike):
        raise ConversionError(f"{net}: an architecture is read from a live net, and this is a file")
    inputs = as_arrays(example_input) if example_input is not None else []
    if len(inputs) > 1:
        raise ConversionError(f"a net of {len(inputs)} inputs is no architecture of the vocabulary, where each has one")
    with ExitStack() as stack:
        side = opened(net, stack, inputs=inputs)
        assert side.live is not None
        input = inputs[0].shape[1:] if inputs else ()
        shapes = lambda kinds: _shapes(side, Hints(MatchOptions(flatten_fix=False), kinds))  # noqa: E731
        return capture(side.live, side.net, shapes, tuple(input))


class _Plan(msgspec.Struct, frozen=True):
    """An architecture with all sizes, and what the weights come from. rules: how these are called."""

    architecture: Architecture
    units: Units
    weights: StrPath | object | None
    weights_from: str | None
    side: Endpoint | None

    @property
    def schema(self) -> Schema:
        return schema_of(self.architecture, self.units)


def _described(
    given: StrPath | Architecture,
    weights: StrPath | object | None,
    input: Input,
    sizes: Mapping[str, int],
    weights_from: str | None,
    stack: ExitStack,
) -> _Plan:
    schema = load_schema(os.fspath(given)) if isinstance(given, str | os.PathLike) and _is_schema(given) else None
    found = given if isinstance(given, Architecture) else None
    if schema is not None:
        described_by(schema)
    elif found is None:
        assert isinstance(given, str | os.PathLike)
        found = _of_file(given, stack)
        weights = given if weights is None else weights
    if weights is not None and sizes:
        raise ConversionError("sizes are for a net without weights; these have theirs")
    side = None
    shapes: Shapes | None = None
    if weights is not None:
        options = {"framework": weights_from} if weights_from is not None else {}
        side = opened(weights, stack, **options)  # type: ignore[arg-type]
        shapes = _shapes(side, Hints(schema=schema if schema is not None else _names(found, side)))
    if schema is not None:
        architecture, units = of_schema(schema, shapes, input, sizes)
    else:
        assert found is not None
        architecture, units = resolve(found, shapes, input, sizes)
    return _Plan(architecture, units, weights, weights_from, side)


def _is_schema(given: StrPath) -> bool:
    path = Path(given)
    return path.suffix in (".yaml", ".yml") or (not path.suffix and not path.exists())


def _of_file(path: StrPath, stack: ExitStack) -> Architecture:
    side = opened(path, stack)
    if side.framework.name != "neutral":
        raise ConversionError(
            f"{path}: a file of {side.framework.title} holds no architecture. Say which one it is, such as "
            f"build('lenet', …, weights='{path}'), or scaffold {path} --schema lenet."
        )
    found = architecture_in(side.contents)
    if found is None:
        raise ConversionError(
            f"{path}: holds weights, and no architecture. Write it with --schema, or from a live net with "
            "converter.save, or say --schema here."
        )
    try:
        return decoded(found)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None


def _names(architecture: Architecture | None, side: Endpoint) -> Schema | None:
    """What weights of another framework call the layers of an architecture of one net."""
    return None if architecture is None or side.framework.name == "neutral" else names_in(architecture)


def _shapes(side: Endpoint, hints: Hints) -> Shapes:
    """The shapes of all tensors in neutral axes."""
    neutral = framework_of("neutral")
    source, hints = prepared(side.net, hints, neutral)
    plan = plan_new(source, side.contents, neutral, neutral.default_format, hints)
    return shapes_of(step.target for step in plan.steps)


def _made(source: str, name: str, title: str) -> Any:
    """The net that the code makes. Only what `source_of` writes of the closed vocabulary gets here."""
    module = types.ModuleType(f"converter.clones.{name or 'net'}")
    if title == "MXNet" and "mxnet" not in sys.modules:
        import converter.mxnet_numpy2  # noqa: F401
    former = sys.modules.setdefault(module.__name__, module)  # dataclasses look there for the module of a class
    try:
        exec(compile(source, f"<{name or 'net'} in {title}>", "exec"), module.__dict__)
        return module.make_net()
    except ImportError as error:
        raise ConversionError(f"a net of {title} cannot be built without it: {error}") from error
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConversionError(f"{title} does not make such a net: {reason}") from error
    finally:
        if former is module:
            del sys.modules[module.__name__]


# -- finished -------------------------------------------------------------------------------------------------------


def _torch(net: Any, plan: _Plan) -> Any:
    return net if plan.weights is None else _filled(net, plan).eval()


def _keras(net: Any, plan: _Plan) -> Any:
    return net if plan.weights is None else _filled(net, plan)


def _gluon(net: Any, plan: _Plan) -> Any:
    """A net without weights sees an input, which gives it all sizes, if the sizes of that are known."""
    if plan.weights is not None:
        return _filled(net, plan)
    import mxnet

    net.initialize()
    if None not in plan.units.input:
        with mxnet.autograd.predict_mode():
            net(mxnet.nd.array(_example(plan.units, channels_last=False)))
    return net


def _flax(net: Any, plan: _Plan) -> Any:
    import jax

    if plan.side is not None:
        return net, jax.tree.map(jax.numpy.asarray, _tree(plan, plan.side))
    if None in plan.units.input or not plan.units.input:
        raise ConversionError("a Flax net without weights needs the sizes of an input: say input=(1, 28, 28)")
    return net, net.init(jax.random.PRNGKey(0), _example(plan.units, channels_last=True))


_FINISHED = {"torch": _torch, "tensorflow": _keras, "flax": _flax, "mxnet": _gluon}


def _filled(net: Any, plan: _Plan) -> Any:
    """All of its settings are those of the architecture, so that none is left to be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CloneWarning)
        return load_into(net, plan.weights, schema=plan.schema, framework=plan.weights_from)


def _tree(plan: _Plan, side: Endpoint) -> dict[str, Any]:
    """The variables as a file of Flax would hold them."""
    flax = framework_of("flax")
    source, hints = prepared(side.net, Hints(schema=plan.schema), flax)
    tree: dict[str, Any] = {}
    for step in plan_new(source, side.contents, flax, flax.default_format, hints).steps:
        *parents, leaf = step.target.name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = compute(step, side.reader.read)
    return tree


def _example(units: Units, channels_last: bool) -> Array:
    """An input of zeros, in a batch of one."""
    sizes = (size or 1 for size in units.input_of(channels_last))
    return np.zeros((1, *sizes), np.int32 if units.takes_numbers else np.float32)
