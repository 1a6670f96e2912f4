"""Which layers follow a flatten, as the sizes of the layers before them tell it.

A layer with F inputs may take a flattened tensor of C channels where C divides F; it may as well take the F
outputs of an earlier linear layer, or C = F channels that were pooled. When sizes allow one answer it is
proposed; when they allow two, the user is asked; when one is an exact size and the other a mere divisor that
something else uses, the exact one is taken, and the other is mentioned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from converter.core.layers import Layer, LayerSizes, sizes_of
from converter.flattening.unordered import Unordered
from converter.flattening.walk import IMAGE, Flattened, Node, Walk


def guesses(
    chain: Sequence[Layer], stated: Mapping[tuple[str, str], int], basis: str, sums: bool = False
) -> tuple[list[Flattened], list[Flattened]]:
    """What is decided for the layers of the chain, and what is left in doubt; nothing for a net without channels.

    stated: as those of `Walk`. basis: what the order of the chain rests on; "" when it is not that in which the net was
    built. sums: whether the user states that some inputs are several tensors side by side.
    """
    if not sums and not any(sizes_of(layer).flow == "channels" for layer in chain) and not any(stated.values()):
        return [], []
    nodes = _with_groups([Node(layer.path, sizes_of(layer)) for layer in chain])
    walk = (Walk if basis and not _turned_round(nodes) else Unordered)(nodes, stated, basis)
    walk.run()
    return [item for item in walk.decisions if not item.problem], [item for item in walk.decisions if item.problem]


def _turned_round(nodes: Sequence[Node]) -> bool:
    """Whether the first convolution takes the outputs of a later one: then the order is not that of the calls."""
    convs = [node.sizes for node in nodes if node.sizes.flow == "channels"]
    first, later = (convs[0], convs[1:]) if convs else (LayerSizes(0, 0, "other"), [])
    if first.inputs <= IMAGE or first.inputs == first.outputs:
        return False
    layers = [node.sizes for node in nodes if node.sizes.flow == "features"]
    taken = {sizes.inputs for sizes in layers}
    becomes = any(sizes.outputs not in taken and sizes.outputs % first.inputs == 0 for sizes in layers)
    return not becomes and any(sizes.outputs == first.inputs for sizes in later)


def _with_groups(nodes: Sequence[Node]) -> list[Node]:
    """A convolution in groups shows the channels of one; it has as many groups as the outputs before it fill.

    One with as many as the first convolution takes is rather a second branch on the image, unless it is depthwise.
    """
    result: list[Node] = []
    last = image = handed = 0
    for node in nodes:
        sizes = node.sizes
        if sizes.flow == "channels" and sizes.inputs and not sizes.transposed:
            depthwise = sizes.inputs == 1 and sizes.outputs == handed  # after a linear layer at every position
            groups, rest = divmod(last if handed in (0, last) else handed if depthwise else 0, sizes.inputs)
            fits = groups > 1 and not rest and not sizes.outputs % groups
            image = image or sizes.inputs
            if fits and (sizes.inputs == 1 or sizes.inputs != image):
                sizes = replace(sizes, inputs=groups * sizes.inputs)
        if sizes.flow == "channels":
            last, handed = sizes.outputs, 0
        elif sizes.flow == "features":
            handed = sizes.outputs
        result.append(Node(node.path, sizes))
    return result
