"""docs/wild.md: what came of each file, and the sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.places import ROOT
from tests.wild.compared import Outcome

PAGE = ROOT / "docs" / "wild.md"
HEAD = """# Files in the wild

Written by `make wild`: pip downloads packages of other people that ship weights, every weight file in them is read, and
each tensor is compared with what the real loader gives in a process of its own (`torch.load`, `torch.jit.load`, h5py,
`numpy.load`, safetensors, `tf.train.load_checkpoint`, pickle): name, dtype, shape and every bit. For the classes of the
packages the loaders of pickles have stand-ins, so that no code of the packages is run. A name is that of the loader, or
the end of it, behind the keys that lead to the weights; attributes of TorchScript, which are in no state dict, are
asked for by name.

The packages are few, and were chosen because they were known to ship weights: the sums are no sample of all files that
there are. No file of MXNet or of Keras 3's `.keras` is among them.

*lost*: tensors of the loader that are neither read nor listed as left out with the reason. *wrong*: other bits, or a
tensor that the loader does not know. *listed*: named as left out (state of an optimizer, a counter). A refusal is right
where the file is in another format or holds no tensor.

"""


def page(found: Sequence[Outcome]) -> str:
    """The sums, then a row for the files of one kind and outcome in a folder."""
    read = [one for one in found if one.format and not one.refused]
    refused = [one for one in found if one.refused]
    sums = {
        "packages": len({one.package for one in found}),
        "files": len(found),
        "read": len(read),
        "tensors": sum(one.tensors for one in read),
        "lost": sum(len(one.lost) for one in read),
        "wrong": sum(len(one.wrong) for one in read),
        "refused, rightly": sum(1 for one in refused if one.rightly),
        "refused, wrongly": sum(1 for one in refused if not one.rightly),
        "not compared": sum(1 for one in read if one.loader),
    }
    lines = _table(tuple(sums), [tuple(sums.values())])
    rows: dict[tuple[str, ...], list[Outcome]] = {}
    for one in found:
        place = Path(one.file)
        kind = (one.package, str(place.parent), place.suffix, one.format, one.refused, *one.lost, *one.wrong)
        rows.setdefault(kind, []).append(one)
    heads = ("package", "file", "format", "tensors", "lost", "wrong", "listed", "")
    return HEAD + "\n".join([*lines, "", *_table(heads, [_row(alike) for alike in rows.values()])]) + "\n"


def _row(alike: Sequence[Outcome]) -> tuple[object, ...]:
    first = alike[0]
    place = Path(first.file)
    file = f"`{place}`" if len(alike) == 1 else f"`{place.parent}/*{place.suffix}` ({len(alike)})"
    said = f"{first.refused} ({first.rightly or '**wrongly**'})" if first.refused else first.loader or "equal"
    counts = (sum(one.tensors for one in alike), *(sum(map(len, each)) for each in _pairs(alike)))
    if first.lost or first.wrong:
        said = said if first.refused else "**differs**"
    package = first.package.replace("==", " ")
    return (package, file, first.format, *counts, sum(one.listed for one in alike), said.replace("|", "/"))


def _pairs(alike: Sequence[Outcome]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    return [one.lost for one in alike], [one.wrong for one in alike]


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]
