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
from converter.core.inputs import Inputs
from converter.core.tensors import Array
from converter.endpoints.endpoint import Endpoint, opened
from converter.errors import CloneWarning, ConversionError
from converter.execution.jobs import compute
from converter.frameworks import framework as framework_of
from converter.frameworks.base import Framework
from converter.frameworks.neutral import architecture_in
from converter.live.run import as_inputs
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

    architecture: the name of a shipped schema, a schema file (``.yaml``), a neutral file that holds an architecture,
    or the result of `converter.architecture`. weights: a file of any framework, or a live net; by default those of
    the neutral file. A net without weights is initialised by its framework.
    input: the sizes of an input, channels first and without the batch (None: any), if they differ from those of the
    architecture. sizes: path of a layer -> another number of outputs, for a net without weights
    (``{"output": 100}``). weights_from: the framework whose names the weights have, if their format leaves that open.

    Returns a ``torch.nn.Module`` (in eval mode, if it has weights), a Keras 3 model, a gluon ``HybridBlock``, or for
    Flax linen the pair (module, variables). Its layers have the names of the schema in that framework. Raises
    ConversionError.
    """
    target = _target("build", framework)
    with ExitStack() as stack:
        blueprint = _blueprint(architecture, weights, tuple(input), sizes or {}, weights_from, stack)
        net = _executed(blueprint.source(target.name), blueprint.architecture.name, target.title)
        return _finished(net, blueprint, target.name)


def scaffold(
    architecture: StrPath | Architecture,
    framework: str,
    weights: StrPath | object | None = None,
    *,
    input: Iterable[int | None] = (),
    sizes: Mapping[str, int] | None = None,
    weights_from: str | None = None,
) -> str:
    """The code of the net that `build` makes; it needs only its framework. Raises ConversionError."""
    target = _target("scaffold", framework)
    with ExitStack() as stack:
        return _blueprint(architecture, weights, tuple(input), sizes or {}, weights_from, stack).source(target.name)


def architecture(net: object, *, example_input: Any = None) -> Architecture:
    """What a live net computes, in the closed vocabulary: data that `build`, `scaffold` and `converter.save` accept.

    net: a PyTorch net that `torch.fx` can trace, a Keras 3 model, a gluon block that accepts symbols (a hybrid
    block), or for Flax linen the pair (module, variables). example_input: an array for a call of the net; needed
    where a shape is still open or depends on the size of the input, and for every Flax net. Printed, an architecture
    is in the notation of schema files. Raises ConversionError, which names an operation outside the vocabulary.
    """
    from converter.architectures.capture import capture

    if isinstance(net, str | os.PathLike):
        raise ConversionError(f"{net}: an architecture is captured from a live net, and this is a file")
    inputs = as_inputs(example_input) if example_input is not None else Inputs()
    values = (*inputs.args, *inputs.keywords.values())
    if len(values) > 1:
        raise ConversionError(f"a net of {len(values)} inputs is outside the vocabulary, where each net has one")
    with ExitStack() as stack:
        side = opened(net, stack, inputs=inputs)
        assert side.live is not None
        input = values[0].shape[1:] if values else ()
        shapes = lambda kinds: _shapes(side, Hints(MatchOptions(flatten_fix=False), kinds))  # noqa: E731
        return capture(side.live, side.net, shapes, tuple(input))


class _Blueprint(msgspec.Struct, frozen=True):
    """A net to build: its architecture with all sizes, and where its weights come from (None: newly initialised).

    side: the opened weights. weights_from: the framework whose names they have, if the user says it.
    """

    architecture: Architecture
    units: Units
    weights: StrPath | object | None
    weights_from: str | None
    side: Endpoint | None

    @property
    def schema(self) -> Schema:
        return schema_of(self.architecture, self.units)

    def source(self, framework: str) -> str:
        return source_of(self.architecture, self.units, framework)

    def example(self, channels_last: bool) -> Array:
        """An input of zeros, in a batch of one."""
        sizes = (size or 1 for size in self.units.input_of(channels_last))
        return np.zeros((1, *sizes), np.int32 if self.units.takes_numbers else np.float32)


def _target(verb: str, framework: str) -> Framework:
    target = framework_of(framework)
    if target.name == "neutral":
        raise ConversionError(f"{verb}: neutral is not a framework. Choose torch, tensorflow, flax or mxnet.")
    return target


def _blueprint(
    architecture: StrPath | Architecture,
    weights: StrPath | object | None,
    input: Input,
    sizes: Mapping[str, int],
    weights_from: str | None,
    stack: ExitStack,
) -> _Blueprint:
    described: Schema | Architecture
    if isinstance(architecture, Architecture):
        described = architecture
    elif _is_schema(architecture):
        described = load_schema(os.fspath(architecture))
        described_by(described)  # before the weights are opened: raises for a schema without an architecture
    else:
        described = _stored_in(architecture, stack)
        weights = architecture if weights is None else weights
    if weights is not None and sizes:
        raise ConversionError("sizes: only a net without weights can have other sizes")
    side, shapes = None, None
    if weights is not None:
        options = {"framework": weights_from} if weights_from is not None else {}
        side = opened(weights, stack, **options)  # type: ignore[arg-type]
        names = described if isinstance(described, Schema) else None
        if isinstance(described, Architecture) and side.framework.name != "neutral":
            names = names_in(described)
        shapes = _shapes(side, Hints(schema=names))
    if isinstance(described, Schema):
        resolved, units = of_schema(described, shapes, input, sizes)
    else:
        resolved, units = resolve(described, shapes, input, sizes)
    return _Blueprint(resolved, units, weights, weights_from, side)


def _is_schema(name: StrPath) -> bool:
    path = Path(name)
    return path.suffix in (".yaml", ".yml") or (not path.suffix and not path.exists())


def _stored_in(path: StrPath, stack: ExitStack) -> Architecture:
    """The architecture in a neutral file. Raises ConversionError."""
    side = opened(path, stack)
    if side.framework.name != "neutral":
        raise ConversionError(
            f"{path}: a file of {side.framework.title} holds no architecture. Name one: "
            f"build('lenet', …, weights='{path}'), or scaffold {path} --schema lenet."
        )
    stored = architecture_in(side.contents)
    if stored is None:
        raise ConversionError(
            f"{path}: holds weights without an architecture. Name one here with --schema, or write the file with "
            "--schema or from a live net with converter.save."
        )
    try:
        return decoded(stored)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from None


def _shapes(side: Endpoint, hints: Hints) -> Shapes:
    """The shapes of all tensors in neutral axes."""
    neutral = framework_of("neutral")
    source, hints = prepared(side.net, hints, neutral)
    plan = plan_new(source, side.contents, neutral, neutral.default_format, hints)
    return shapes_of(step.target for step in plan.steps)


def _executed(source: str, name: str, title: str) -> Any:
    """The net that the code makes. Only code from `source_of`, of the closed vocabulary, is executed here."""
    module = types.ModuleType(f"converter.clones.{name or 'net'}")
    if title == "MXNet" and "mxnet" not in sys.modules:
        import converter.mxnet_numpy2  # noqa: F401
    former = sys.modules.setdefault(module.__name__, module)  # dataclasses look up the module of a class there
    try:
        exec(compile(source, f"<{name or 'net'} in {title}>", "exec"), module.__dict__)
        return module.make_net()
    except ImportError as error:
        raise ConversionError(f"building a net of {title} needs {title} itself: {error}") from error
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConversionError(f"{title} refuses to make this net: {reason}") from error
    finally:
        if former is module:
            del sys.modules[module.__name__]


# -- weights or initial values, by framework --------------------------------------------------------------------------


def _finished(net: Any, blueprint: _Blueprint, framework: str) -> Any:
    """The net with its weights; without weights as its framework initialises it."""
    if framework == "flax":
        return _flax(net, blueprint)
    if blueprint.weights is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CloneWarning)  # its settings are those of the architecture
            net = load_into(net, blueprint.weights, schema=blueprint.schema, framework=blueprint.weights_from)
        return net.eval() if framework == "torch" else net
    if framework == "mxnet":
        _initialise_gluon(net, blueprint)
    return net


def _initialise_gluon(net: Any, blueprint: _Blueprint) -> None:
    """Initialise, and if the sizes of the input are known call the net once, which gives all parameters shapes."""
    import mxnet

    net.initialize()
    if None not in blueprint.units.input:
        with mxnet.autograd.predict_mode():
            net(mxnet.nd.array(blueprint.example(channels_last=False)))


def _flax(net: Any, blueprint: _Blueprint) -> Any:
    import jax

    if blueprint.side is not None:
        return net, jax.tree.map(jax.numpy.asarray, _variables(blueprint, blueprint.side))
    if None in blueprint.units.input or not blueprint.units.input:
        raise ConversionError("a Flax net without weights needs the sizes of its input, such as input=(1, 28, 28)")
    return net, net.init(jax.random.PRNGKey(0), blueprint.example(channels_last=True))


def _variables(blueprint: _Blueprint, side: Endpoint) -> dict[str, Any]:
    """The nested variables that a file of Flax would hold."""
    flax = framework_of("flax")
    source, hints = prepared(side.net, Hints(schema=blueprint.schema), flax)
    tree: dict[str, Any] = {}
    for step in plan_new(source, side.contents, flax, flax.default_format, hints).steps:
        *parents, last = step.target.name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = compute(step, side.reader.read)
    return tree
