"""`verify`: is it right? Two files, two live nets, or a certificate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from converter.commands.make_plan import opened_source
from converter.endpoints.checkpoint import Weights
from converter.endpoints.endpoint import not_advised_to_read, opened
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.formats.io.files import unmapped
from converter.matching.hints import Hints
from converter.options import (
    LoadKeywords,
    MatchOptions,
    ReadOptions,
    Records,
    StrPath,
    changed,
    check_keywords,
    record_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from converter.commands.verify_certificate import CertificateCheck
    from converter.commands.verify_files import WeightComparison
    from converter.commands.verify_nets import ForwardComparison

Verification: TypeAlias = "WeightComparison | ForwardComparison | CertificateCheck"


def verify(
    a: StrPath | object,
    b: StrPath | object | None = None,
    x: Any = None,
    *,
    x_b: Any = None,
    move_channels: bool | None = None,
    rtol: float | None = None,
    source_framework: str | None = None,
    target_framework: str | None = None,
    options: Records = (),
    **keywords: Unpack[LoadKeywords],
) -> Verification:
    """Tell whether a conversion is right, and what was compared. ``.ok`` of the result says it, printed it is a table.

    ``verify("cert.json")``: a certificate (``certificate`` of `converter.convert`): it is unchanged, so are the files,
    and the plan made anew gives the same tensors.
    ``verify("mlp.params", "mlp.msgpack")``: two weight files of any frameworks (or live nets), tensor by tensor, bit
    for bit in neutral axes. source_framework, target_framework: whose names a file has, where its format leaves that
    open.
    ``verify(net, other, x)``: two live nets of any frameworks, run in inference mode on the same input: how far their
    outputs agree, and the first layer where they part. a, b: a ``torch.nn.Module``, a Keras 3 or tf_keras model, a
    ``(module, variables)`` pair or bound module of Flax linen, an nnx module, or a gluon ``Block``; they are left in
    the mode that they had. x: the input as a takes it: an array, or a tuple or list of them. Where the one framework
    has channels first and the other last, arrays of 4 and more axes are turned for b; move_channels says True (those of
    3 axes as well) or False instead. x_b: b's own input, for whatever else is laid out otherwise. rtol: allowed
    max |a - b| / max |a|; by default 1e-5 for float32, 1e-12 for float64, 1e-2 for float16, 3e-2 for bfloat16. Outputs
    of layers are compared in whichever order of axes (channels first or last, time first or second) brings them closer,
    and before an activation that a layer brings with it.

    options, keywords: pair the layers, as in `converter.plan` (ReadOptions of the first file, MatchOptions).
    Raises ConversionError when a file cannot be read, layers cannot be paired, or a net does not run.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions)
    read = record_of(ReadOptions, options, keywords)
    frameworks = {"source_framework": source_framework, "target_framework": target_framework}
    forward = {"x_b": x_b, "move_channels": move_channels, "rtol": rtol}
    if b is None:
        alone = "a certificate alone takes no option: name a second file or net."
        _refuse({"x": x, **forward, **frameworks}, alone)
        if keywords or options:
            raise ConversionError(alone)
        if not isinstance(a, str | os.PathLike):
            raise ConversionError("a live net is compared with another one, or with a file: name it as b.")
        from converter.commands.verify_certificate import check_certificate

        return check_certificate(a)
    hints = Hints.of(record_of(MatchOptions, options, keywords))
    if x is not None:
        _refuse({**frameworks, **dict.fromkeys(changed(read), True)}, "this is for files, and x for live nets.")
        for net in (a, b):
            if isinstance(net, str | os.PathLike | Weights):
                file = net.path if isinstance(net, Weights) else net
                raise ConversionError(f"x is an input of two live nets, and {file} is a file: leave x out.")
        from converter.commands.verify_nets import Tolerance, verify_nets

        return verify_nets(a, b, x, hints, Tolerance(rtol, x_b, move_channels))
    _refuse(forward, "this is for two live nets that are run: give x, an input of theirs, too.")
    from converter.commands.verify_files import verify_weights

    with ExitStack() as stack:
        stack.enter_context(unmapped())
        source = opened_source(a, stack, source_framework, read)
        with not_advised_to_read():
            target = opened(b, stack, framework=target_framework)
        return verify_weights(source, target, hints)


def _refuse(values: Mapping[str, Any], text: str) -> None:
    """Raises ConversionError that names the first of these arguments that has a value."""
    for name, value in values.items():
        if value is not None:
            raise ConversionError(Problem(text, "option", name, about=Remedy(name, Placeholder("…"))))
