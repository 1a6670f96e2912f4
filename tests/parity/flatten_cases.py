"""Nets with a flatten between channels and features, in all flavours. The convolutions have kernels of 3 x 2."""

from __future__ import annotations

from typing import Any

from tests.parity.chains import Link, normal
from tests.parity.conv_cases import conv, transposed
from tests.parity.graphs import graph, linear, norm
from tests.parity.sides import Case

IMAGE = normal(2, 3, 7, 6)  # two convolutions leave 3 x 4 places


def in_a_row(w: Any, call: Any, x: Any, *names: str) -> Any:
    for name in names:
        x = getattr(w, name[1:])(x) if name.startswith("!") else call(name, x)
    return x


def row(name: str, x: Any, *links: Link | str, **more: Any) -> Case:
    """Layers one after the other; a text such as "!flatten" does something without weights."""
    names = [link if isinstance(link, str) else link.name for link in links]
    layers = [link for link in links if not isinstance(link, str)]
    return graph(name, x, layers, lambda w, call, y: in_a_row(w, call, y, *names), **more)


def two_heads(first: int, second: int) -> Case:
    """A trunk and two heads with a convolution each; ``first`` and ``second``: their channels."""

    def wiring(w: Any, call: Any, x: Any) -> Any:
        y = call("trunk", x)
        one = in_a_row(w, call, y, "c1", "n1", "!flatten", "f1")
        two = in_a_row(w, call, y, "c2", "n2", "!flatten", "f2")
        return w.concat(one, two)

    links = (
        conv("trunk", 3, 10),
        conv("c1", 10, first),
        norm("n1", first),
        linear("f1", first * 12, 5, flatten=first),
        conv("c2", 10, second),
        norm("n2", second),
        linear("f2", second * 12, 11, flatten=second),
    )
    return graph(f"heads of {first} and {second}", IMAGE, links, wiring)


def beside_features() -> Case:
    """What was flattened, with three features of the image itself behind it."""

    def wiring(w: Any, call: Any, x: Any) -> Any:
        return call("f1", w.concat(w.flatten(in_a_row(w, call, x, "c1", "c2")), w.pool(x)))

    links = (conv("c1", 3, 6), conv("c2", 6, 8), linear("f1", 99, 10))
    said = {"": ("--flatten", "f1=8x12+3")}
    return graph("flatten beside features", IMAGE, links, wiring, options=said)


def side_by_side() -> Case:
    """Two branches, each flattened by itself, and both into one layer."""

    def wiring(w: Any, call: Any, x: Any) -> Any:
        one, two = (w.flatten(call(name, x)) for name in ("c1", "c2"))
        return call("f1", w.concat(one, two))

    links = (conv("c1", 3, 6), conv("c2", 3, 4), linear("f1", 250, 10))
    said = {"": ("--flatten", "f1=6x25+4x25")}
    return graph("two flattened side by side", IMAGE, links, wiring, options=said)


def decoder() -> Case:
    def wiring(w: Any, call: Any, x: Any) -> Any:
        y = in_a_row(w, call, x, "down", "deeper", "!flatten", "code", "grow", "spread", "!relu")
        return call("up", w.unflatten(y, 8, 3, 4))

    links = (
        conv("down", 3, 6),
        conv("deeper", 6, 8),
        linear("code", 96, 7, flatten=8),
        linear("grow", 7, 96, unflatten=8),
        norm("spread", 96, 0, flatten=8),
        transposed("up", 8, 3, stride=2),
    )
    return graph("decoder", IMAGE, links, wiring)


def generator() -> Case:
    def wiring(w: Any, call: Any, x: Any) -> Any:
        return in_a_row(w, call, w.unflatten(call("grow", x), 6, 2, 3), "n", "up", "last")

    links = (
        linear("grow", 9, 36, unflatten=6),
        norm("n", 6),
        transposed("up", 6, 5, stride=2),
        transposed("last", 5, 3),
    )
    return graph("generator", normal(4, 9), links, wiring)


CASES = (
    row("flatten", IMAGE, conv("c1", 3, 6), conv("c2", 6, 8), "!flatten", linear("f1", 96, 10, flatten=8)),
    row(
        "flatten behind batch norm",
        IMAGE,
        conv("c1", 3, 6),
        norm("n1", 6),
        conv("c2", 6, 8),
        norm("n2", 8),
        "!relu",
        "!flatten",
        linear("f1", 96, 96, flatten=8),
        linear("f2", 96, 5, flatten=0),
    ),
    row(
        "batch norm behind flatten",
        IMAGE,
        conv("c1", 3, 6),
        conv("c2", 6, 8),
        "!flatten",
        norm("n", 96, 0, flatten=8),
        linear("f1", 96, 10, flatten=8),
        linear("f2", 10, 4),
    ),
    row("pooled", IMAGE, conv("c1", 3, 6), conv("c2", 6, 8), "!pool", linear("f1", 8, 16), linear("f2", 16, 5)),
    row("flatten 1d", normal(2, 3, 11), conv("c", 3, 4, space=1), "!flatten", linear("f", 36, 5, flatten=4)),
    row("flatten 3d", normal(2, 2, 4, 5, 6), conv("c", 2, 4, space=3), "!flatten", linear("f", 4 * 27, 5, flatten=4)),
    two_heads(7, 5),
    beside_features(),
    side_by_side(),
    decoder(),
    generator(),
)
