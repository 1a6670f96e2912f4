"""Recurrent cells of TensorFlow whose tensors are not those of Keras: made into these.

TensorFlow 1 (tf_keras/src/layers/rnn/legacy_cells.py): one kernel for the inputs and, below them, the state; the gates
of an LSTM are ``i j f o``, and to its forget gate the layer adds ``forget_bias`` when it runs, which no file tells.
CuDNN (`CuDNNLSTM`, `CuDNNGRU` of Keras 2): transposed kernels, and two biases in one vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import JoinedGates, SumOfHalves
from converter.core.layers import join_path
from converter.core.ops import OfCudnn, Op, Reshape
from converter.core.tensors import TensorSpec
from converter.frameworks.base import Part
from converter.frameworks.cells import OLD_CELL, old_cell, without_old_cells


class _OldCell(msgspec.Struct, frozen=True):
    """keras: its class there. inside: what holds its kernels, in their order. gates: of these, in the order of Keras.
    forget_bias: what is added to the second gate of Keras when the layer runs, unless somebody gave another number.
    """

    keras: str
    inside: tuple[str, ...]
    gates: tuple[int, ...]
    forget_bias: float = 0.0


#: Name of the cell -> how it is stored. Those that no other framework has (with layer norms, or of a convolution), and
#: peepholes and projections, are of an unknown kind.
_OLD_CELLS: Mapping[str, _OldCell] = {
    r"(basic_)?lstm_cell|lstm_fused_cell": _OldCell("lstm_cell", ("",), (0, 2, 1, 3), 1.0),
    r"cudnn_compatible_lstm_cell": _OldCell("lstm_cell", ("",), (0, 2, 1, 3)),
    r"(basic_)?rnn_cell": _OldCell("simple_rnn_cell", ("",), (0,)),
    r"gru(_block)?_cell": _OldCell("gru_cell", ("gates", "candidate"), (1, 0, 2)),
}
#: What is around such a cell -> the layer of the module that it is, where no number tells.
_PLACES: Mapping[str, str] = {
    r"cell_(?P<number>\d+)\.bidirectional_rnn\.(?P<side>fw|bw)": "",
    r"cell_(?P<number>\d+)(?P<side>)": "",
    r"(?P<side>fw|bw)": "0",
}
#: Older names of the two tensors; and the numbers that HDF5 has for those of a Keras cell.
_OLDER = {"weights": "kernel", "biases": "bias"}
_NUMBERED = {"0": "kernel", "1": "recurrent_kernel", "2": "bias"}


def with_folded_cells(parts: Sequence[Part]) -> list[Part]:
    """The parts, with those of such cells as what Keras would store."""
    return _with_old_cells(_with_cudnn(parts))


def _with_old_cells(parts: Sequence[Part]) -> list[Part]:
    parts = without_old_cells(parts)
    found = {part.path: cell for part in parts if part.layer_class == OLD_CELL and (cell := old_cell(part.path))}
    cells: dict[tuple[str, ...], dict[str, Part]] = {}
    for part in parts:
        if part.path in found:
            path, inside = found[part.path]
            cells.setdefault(path, {})[f"{inside}.{_OLDER.get(part.leaf, part.leaf)}"] = part
    made = {path: _as_keras(path, tensors) for path, tensors in cells.items()}
    if not any(made.values()):
        return parts
    return list(dict.fromkeys(new for part in parts for new in (made.get(_cell_of(part, found)) or [part])))


def _cell_of(part: Part, found: Mapping[str, tuple[tuple[str, ...], str]]) -> tuple[str, ...]:
    return found[part.path][0] if part.path in found else ()


def _as_keras(path: tuple[str, ...], tensors: Mapping[str, Part]) -> list[Part]:
    """A cell as Keras has it; [] for one that it does not have."""
    name = re.sub(r"_\d+$", "", path[-1])
    row = next((row for pattern, row in _OLD_CELLS.items() if re.fullmatch(pattern, name)), None)
    names = [[f"{inside}.{leaf}" for inside in row.inside] for leaf in ("kernel", "bias")] if row else []
    if row is None or tensors.keys() != {name for each in names for name in each}:
        return []
    kernels, biases = (tuple(tensors[name].spec for name in each) for each in names)
    rows = kernels[0].shape[0] if len(kernels[0].shape) == 2 else 0
    hidden, rest = divmod(sum(spec.shape[-1] for spec in biases), len(row.gates))
    if rest or hidden >= rows or any(k.shape != (rows, *b.shape) for k, b in zip(kernels, biases, strict=True)):
        return []
    added = ((1, row.forget_bias),) if row.forget_bias else ()
    place = _placed(path)
    return [
        _part(place, "kernel", row.keras, kernels, JoinedGates(row.gates, (0, rows - hidden))),
        _part(place, "recurrent_kernel", row.keras, kernels, JoinedGates(row.gates, (rows - hidden, rows))),
        _part(place, "bias", row.keras, biases, JoinedGates(row.gates, None, added)),
    ]


def _part(path: str, leaf: str, layer_class: str, sources: tuple[TensorSpec, ...], fold: Op) -> Part:
    (made,) = fold.infer(sources)
    return Part(replace(made, name=f"{path}.{leaf}"), path, leaf, layer_class, sources, fold)


def _placed(path: tuple[str, ...]) -> str:
    """``rnn.multi_rnn_cell.cell_1.lstm_cell`` -> ``rnn.multi_rnn_cell.l1``; ``rnn.bw.…`` -> ``rnn.l0_reverse``."""
    above = join_path(path[:-1])
    for pattern, layer in _PLACES.items():
        place = re.search(rf"(^|\.){pattern}$", above)
        if place:
            reverse = "_reverse" if place["side"] == "bw" else ""
            return ".".join(filter(None, (above[: place.start()], f"l{layer or place['number']}{reverse}")))
    return join_path(path)


def _with_cudnn(parts: Sequence[Part]) -> list[Part]:
    """Cells of CuDNN, known by a bias of twice the size, as Keras has them."""
    cells: dict[str, dict[str, Part]] = {}
    for part in parts:
        cells.setdefault(part.path, {})[_NUMBERED.get(part.leaf, part.leaf)] = part
    folds = {path: fold for path, tensors in cells.items() if (fold := _cudnn(tensors))}
    return [
        _part(
            part.path, part.leaf, part.layer_class, (part.spec,), folds[part.path][_NUMBERED.get(part.leaf, part.leaf)]
        )
        if part.path in folds
        else part
        for part in parts
    ]


def _cudnn(tensors: Mapping[str, Part]) -> Mapping[str, Op]:
    """What makes of each tensor that of Keras, whose LSTM has one bias and GRU two; {} for what is no cell of CuDNN."""
    if tensors.keys() != set(_NUMBERED.values()):
        return {}
    kernel, state, bias = (tensors[leaf].spec.shape for leaf in _NUMBERED.values())
    gates = state[1] // state[0] if len(state) == 2 and state[0] else 0
    if gates not in (3, 4) or len(kernel) != 2 or kernel[1] != state[1] or bias != (2 * state[1],):
        return {}
    biases: Op = SumOfHalves() if gates == 4 else Reshape((2, state[1]), bias)
    return {"kernel": OfCudnn(gates), "recurrent_kernel": OfCudnn(gates), "bias": biases}
