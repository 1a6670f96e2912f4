"""Write a certificate: a JSON file that says what a conversion read, did and wrote, so that anyone can check it again.

It holds no time and no path of the machine: the same conversion gives the same certificate. Files are named
relative to it, and are in its folder or below: a certificate may come from a stranger, and none leads out of its
folder. The seal, a sha256 of all the rest, shows that it was changed by accident; whoever changes it on purpose can
make a new one, so it is no signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import xxhash
from msgspec.structs import asdict

from converter._version import __version__
from converter.core.tensors import Array
from converter.core.transposing import digest
from converter.endpoints.checkpoint import Weights, open_weights
from converter.endpoints.destination import Destination, parse_direction
from converter.endpoints.endpoint import Endpoint
from converter.endpoints.replacing import refuse_part, refuse_read
from converter.errors import ConversionError, OutputError, Remedy, UnsafeFileError
from converter.execution.jobs import compute
from converter.formats.atomic import write_text
from converter.formats.io.json import read_json
from converter.formats.locations import is_url, location
from converter.live.user_code import is_name
from converter.options import Options, StrPath
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step
from converter.reports.conversion import Report
from converter.schema.loader import names_file

#: Options that name files.
FILES = ("like", "schema", "names_from", "merge_adapter")
#: Libraries that lay out what is written.
_LIBRARIES = ("numpy", "h5py", "ml-dtypes", "msgpack", "msgspec", "xxhash")
_CHUNK_BYTES = 4 << 20


class HashedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    bytes: int
    xxh3_128: str
    sha256: str


class CertifiedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight file: what it is opened by, what it is, and all files that it consists of."""

    path: str
    format: str
    writer: str
    files: tuple[HashedFile, ...]


class CertifiedStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the plan. ``done``: in words; ``ops``: exactly. xxh3_128: of the tensor in the target's layout."""

    layer: str
    kind: str
    sources: tuple[str, ...]
    target: str
    shape: tuple[int, ...]
    dtype: str
    done: str
    ops: tuple[str, ...]
    reason: str
    xxh3_128: str


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: Literal[1]
    versions: dict[str, str]
    options: dict[str, Any]
    source: CertifiedFile
    target: CertifiedFile
    named: tuple[HashedFile, ...]
    plan: tuple[CertifiedStep, ...]
    left_out: tuple[dict[str, str], ...]
    seal: str = ""


# -- making ---------------------------------------------------------------------------------------------------------


def refuse_certificate(
    path: StrPath, force: bool, dry_run: bool, like: object, source: StrPath, output: StrPath | None
) -> None:
    """Before anything is written: raises OutputError when the certificate exists, ConversionError for a dry run, for
    a clone that is no file, and where a file is a URL.
    """
    if is_name(like) or not isinstance(like, str | os.PathLike | None):
        raise ConversionError(
            "a certificate covers files, which can be checked again: save the clone to a file, and give that."
        )
    for url in (file for file in (path, source, output) if file is not None and is_url(location(file))):
        raise ConversionError(f"a certificate covers files on a disk, and {url} is a URL. Copy the file first.")
    if dry_run:
        raise ConversionError("a dry run writes nothing that a certificate could certify: leave one of the two out.")
    if os.path.exists(path) and not force:
        text = f"{os.fspath(path)}: exists already; choose another path."
        raise OutputError(text, Remedy("force", effect="replaces it"))


def _refuse_outside(certificate: Path, file: Path) -> None:
    """Raises ConversionError for a file that is not in the folder of the certificate."""
    home, place = certificate.parent.resolve(), file.resolve()
    if place.is_relative_to(home):
        return
    text = f"a certificate names files in its own folder and below it, and {file} is not in {home}."
    shared = os.path.commonpath([home, place.parent])
    if os.path.dirname(shared) == shared:
        raise ConversionError(f"{text} Copy the files into one folder first.")
    raise ConversionError(text, Remedy("certificate", os.path.join(shared, certificate.name)))


def inside(certificate: Path, name: str) -> Path:
    """The file that a certificate names. Raises UnsafeFileError for a path, or a link, that leads out of its folder."""
    folder = certificate.parent.absolute()
    try:
        is_inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that no file can have
        is_inside = False
    if not is_inside:
        raise UnsafeFileError(certificate, f"it names the file {name[:80]!r}, which is not in its folder")
    return folder / name


def refuse_place(
    path: StrPath, output: Destination, source: Endpoint, clone: Endpoint | None, records: Sequence[Options]
) -> None:
    """Before anything is written, too: raises OutputError where the certificate would replace a file that is read or
    written, or would have to name one whose name is no text, and ConversionError where it would have to name one that
    is not in its folder.

    records: of the options, which name files, too.
    """
    certificate = Path(path)
    named = {name: Path(file) for record in records for name, file in named_files(record.to_dict()).items()}
    refuse_read(certificate, source.files, "the source")
    refuse_read(certificate, clone.files if clone else (), "the clone")
    refuse_read(certificate, tuple(named.values()), "a file of the options")
    refuse_part(certificate, output)
    for file in filter(None, (source.path, output.path, clone.path if clone else None, *named.values())):
        _refuse_outside(certificate, file)
        shown = relative(file, certificate.parent)
        if shown != shown.encode(errors="replace").decode():
            raise OutputError(f"{shown}: this name is no text (UTF-8), which a certificate is. Rename the file first.")


def certify(
    path: StrPath, report: Report, weights: Weights, direction: str, like: object, records: Sequence[Options]
) -> None:
    """Write the certificate of a conversion that was just done.

    weights: the source, still open. direction, like, records: as `converter.convert` took them. Raises ConversionError
    when the target does not hold what was planned.
    """
    certificate = Path(path)
    options: dict[str, Any] = {"direction": direction, **({"like": os.fspath(like)} if like is not None else {})}  # type: ignore[call-overload]
    for record in records:
        options |= record.to_dict()
    with open_weights(report.output, parse_direction(direction).target.name) as target:
        planned, problems = replayed(report.plan, weights, target)
    if problems:
        raise ConversionError("; ".join(problems))
    base = certificate.parent
    named = named_files(options)
    document = Certificate(
        1,
        versions(),
        {**options, **{name: relative(file, base) for name, file in named.items()}},
        _certified(report.source, weights, base),
        _certified(report.output, target, base),
        tuple(hashed(file, base) for value in named.values() for file in files_of(Path(value))),
        planned,
        left_out_of(report.plan),
    )
    _write(certificate, msgspec.structs.replace(document, seal=seal_of(document)))


def versions() -> dict[str, str]:
    return {"converter": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}


def _certified(path: str, weights: Weights, base: Path) -> CertifiedFile:
    files = tuple(hashed(file, base) for file in files_of(Path(path)))
    return CertifiedFile(relative(path, base), weights.format.name, weights.contents.writer, files)


def left_out_of(plan: TensorPlan) -> tuple[dict[str, str], ...]:
    return tuple(asdict(item) for item in plan.left_out)


def _write(path: Path, document: Certificate) -> None:
    text = json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False) + "\n"
    write_text(path, text)


def seal_of(document: Certificate) -> str:
    rest = msgspec.structs.replace(document, seal="")
    return hashlib.sha256(json.dumps(msgspec.to_builtins(rest), sort_keys=True).encode()).hexdigest()


def named_files(options: Mapping[str, Any]) -> dict[str, str]:
    """The options that name a file: a clone, a schema of the user's own (shipped ones have no extension)."""
    return {
        name: options[name]
        for name in FILES
        if isinstance(options.get(name), str) and (name != "schema" or names_file(options[name]))
    }


# -- the plan done again --------------------------------------------------------------------------------------------


def replayed(plan: TensorPlan, source: Weights, target: Weights) -> tuple[tuple[CertifiedStep, ...], list[str]]:
    """Every step with the hash of its result, tensor by tensor; and a problem for each that differs from the target."""
    planned, problems = [], []
    stored = _stored(target, plan)
    for step in plan.steps:
        try:
            array = stored(step.target.name)
            written = digest(array)
        except KeyError:
            problems.append(f"{target.path}: has no tensor '{step.target.name}'")
            array, written = None, ""
        wanted = _wanted(step, source, array, written)
        names, target_spec = tuple(spec.name for spec in step.sources), step.target
        what = names, target_spec.name, target_spec.shape, target_spec.dtype.name, step.done
        planned.append(CertifiedStep(step.layer, step.kind, *what, tuple(map(repr, step.ops)), step.reason, wanted))
        if written and written != wanted:
            problems.append(
                f"{target.path}: '{step.target.name}' is not what the plan makes of the source: "
                f"its xxh3-128 is {written}, not {wanted}"
            )
    return tuple(planned), problems


def _wanted(step: Step, source: Weights, array: Array | None, written: str) -> str:
    """The hash of what the step gives. What the clone keeps, in whole or in rows, is known by what was written alone.

    array, written: that, and its hash; None and "" where there is no such tensor.
    """
    if step.own and (step.is_kept or array is None):
        return written
    return digest(compute(step, source.reader.read, None if array is None else lambda name: array))


def _stored(target: Weights, plan: TensorPlan) -> Callable[[str], Array]:
    """What the target holds under a name; a list that was saved as one array is read row by row."""
    if plan.contents.container == "list" and target.contents.container == "tensor":
        (name,) = target
        return lambda row: target[name][int(row)]
    return target.__getitem__


# -- files ----------------------------------------------------------------------------------------------------------


def files_of(path: Path) -> list[Path]:
    """All files of a weight file: a folder's, those that an index names, those that share a checkpoint's prefix."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    prefix = path.name.removesuffix(".index")
    beside = [file for file in path.parent.iterdir() if file.is_file()] if path.parent.is_dir() else []
    if not path.exists() or path.suffix == ".index":
        return sorted(file for file in beside if file.name.startswith((f"{prefix}.", f"{prefix}-")))
    named = set(_texts(read_json(path))) if path.suffix == ".json" else set()
    return [path, *sorted(file for file in beside if file.name in named and file != path)]


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict | list):
            left += item.values() if isinstance(item, dict) else item


def relative(file: StrPath, base: Path) -> str:
    """As seen from the certificate."""
    return Path(os.path.relpath(file, base)).as_posix()


def hashed(file: Path, base: Path) -> HashedFile:
    fast, slow, size = xxhash.xxh3_128(), hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            fast.update(chunk)
            slow.update(chunk)
            size += len(chunk)
    return HashedFile(relative(file, base), size, fast.hexdigest(), slow.hexdigest())
