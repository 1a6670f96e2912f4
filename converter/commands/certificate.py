"""Certificates: a JSON file that says what a conversion read, did and wrote, so that anyone can check it again.

It holds no time and no path of the machine: the same conversion gives the same certificate. Files are named
relative to it (by their bare names where the two share no folder but the root). The seal, a sha256 of all the rest,
shows that it was changed by accident; whoever changes it on purpose can make a new one, so it is no signature.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import asdict

from converter.commands.certified_files import HashedFile, files_of, hashed, relative
from converter.commands.verify_files import digest
from converter.core.tensors import Array
from converter.endpoints.checkpoint import StrPath, Weights, read
from converter.endpoints.direction import parse_direction
from converter.errors import ConversionError, FormatError, OutputError
from converter.execution.run import compute
from converter.formats.io.atomic import discard, disk, partial_path, publish
from converter.formats.io.locations import is_url, location
from converter.live.user_code import is_name
from converter.planning.plan import KEPT, Plan
from converter.planning.steps import Step
from converter.reports.conversion import Report

__all__ = ["Check", "certify", "check_certificate", "refuse_certificate"]

#: Arguments of `converter.convert` that change neither the plan nor a byte of the result.
_NO_OPTIONS = frozenset(
    (
        "source output memory workers executor progress resume dry_run force certificate verify max_shard_size format"
    ).split()
)
#: Those that name files.
_FILES = ("like", "schema", "names_from")
#: Libraries that lay out what is written.
_LIBRARIES = ("numpy", "h5py", "ml-dtypes", "msgpack", "msgspec", "xxhash")


class _Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A weight file: what it is opened by, what it is, and all files that it consists of."""

    path: str
    format: str
    writer: str
    files: tuple[HashedFile, ...]


class _Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class _Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    certificate: Literal[1]
    versions: dict[str, str]
    options: dict[str, Any]
    source: _Side
    target: _Side
    given: tuple[HashedFile, ...]
    plan: tuple[_Planned, ...]
    left_out: tuple[dict[str, str], ...]
    seal: str = ""


class Check(msgspec.Struct, frozen=True):
    """What checking a certificate found. problems: what is not as it says. notes: what differs and does no harm."""

    certificate: str
    source: str
    target: str
    tensors: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        notes = [f"note: {note}" for note in self.notes]
        if self.ok:
            return "\n".join(
                [
                    *notes,
                    f"{self.certificate} holds: {self.source} and {self.target} are unchanged, and the plan gives "
                    f"the same {self.tensors} tensors again",
                ]
            )
        count = len(self.problems)
        return "\n".join([*notes, *self.problems, f"{self.certificate} does not hold: {count} things differ"])


# -- making ---------------------------------------------------------------------------------------------------------


def refuse_certificate(
    path: StrPath, force: bool, dry_run: bool, like: object, source: StrPath, output: StrPath | None
) -> None:
    """Before anything is written: raises OutputError when the certificate exists, ConversionError for a dry run, for
    a clone that is no file, and where a file is a URL.
    """
    if is_name(like) or not isinstance(like, str | os.PathLike | None):
        raise ConversionError("a certificate is of files, which can be checked again: give a file of the clone")
    for url in (file for file in (path, source, output) if file is not None and is_url(location(file))):
        raise ConversionError(
            f"a certificate is of files on a disk, and {url} is a URL. Leave --certificate out, or copy the file first"
        )
    if dry_run:
        raise ConversionError("A dry run writes nothing that a certificate could speak of. Leave --certificate out.")
    if os.path.exists(path) and not force:
        raise OutputError(f"{os.fspath(path)}: exists already. Say --force to replace it, or choose another.")


def certify(path: StrPath, report: Report, weights: Weights, given: Mapping[str, Any]) -> None:
    """Write the certificate of a conversion that was just done.

    weights: the source, still open. given: all arguments of `converter.convert`. Raises ConversionError when the
    target does not hold what was planned.
    """
    certificate = Path(path)
    options = _options(given)
    with read(report.output, framework=_target_framework(options)) as target:
        planned, problems = _replayed(report.plan, weights, target)
    if problems:
        raise ConversionError("\n".join(problems))
    base = certificate.parent
    named = _named_files(options)
    plain = {**options, **{name: relative(file, base) for name, file in named.items()}}
    document = _Certificate(
        1,
        _versions(),
        plain,
        _side(report.source, weights, base),
        _side(report.output, target, base),
        tuple(hashed(file, base) for value in named.values() for file in files_of(Path(value))),
        planned,
        _left_out(report.plan),
    )
    _write(certificate, msgspec.structs.replace(document, seal=_seal(document)))


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that shape the plan and are not the default, as JSON keeps them."""
    defaults = {name: parameter.default for name, parameter in _parameters().items()}
    changed = {
        name: value
        for name, value in given.items()
        if name not in _NO_OPTIONS and value != defaults[name] and (value or not isinstance(value, dict | list | tuple))
    }
    found: dict[str, Any] = json.loads(json.dumps(changed, default=_plain, sort_keys=True))
    return found


def _parameters() -> Mapping[str, inspect.Parameter]:
    from converter.commands.convert import convert

    return inspect.signature(convert).parameters


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else sorted(value)


def _target_framework(options: Mapping[str, Any]) -> str:
    return parse_direction(options["direction"]).target.name


def _versions() -> dict[str, str]:
    from converter import __version__

    return {"converter": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}


def _side(path: str, weights: Weights, base: Path) -> _Side:
    files = tuple(hashed(file, base) for file in files_of(Path(path)))
    return _Side(relative(path, base), weights.format.name, weights.contents.writer, files)


def _left_out(plan: Plan) -> tuple[dict[str, str], ...]:
    return tuple(asdict(item) for item in plan.left_out)


def _write(path: Path, document: _Certificate) -> None:
    text = json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False) + "\n"
    partial = partial_path(path)
    try:
        with disk(path):
            partial.write_text(text, encoding="utf-8")
            publish([(partial, path)])
    finally:
        discard(partial)


def _seal(document: _Certificate) -> str:
    rest = msgspec.structs.replace(document, seal="")
    return hashlib.sha256(json.dumps(msgspec.to_builtins(rest), sort_keys=True).encode()).hexdigest()


def _named_files(options: Mapping[str, Any]) -> dict[str, str]:
    """The options that name a file: a clone, a schema of the user's own (those that are shipped have no ending)."""
    return {
        name: options[name]
        for name in _FILES
        if isinstance(options.get(name), str) and (name != "schema" or options[name].endswith((".yaml", ".yml")))
    }


# -- the plan done again --------------------------------------------------------------------------------------------


def _replayed(plan: Plan, source: Weights, target: Weights) -> tuple[tuple[_Planned, ...], list[str]]:
    """Every step with the hash of what it gives, tensor by tensor; and what of it the target holds otherwise."""
    planned, problems = [], []
    stored = _stored(target, plan)
    for step in plan.steps:
        try:
            found = digest(stored(step.target.name))
        except KeyError:
            problems.append(f"{target.path}: has no tensor '{step.target.name}'")
            found = ""
        # what stays as it is in the clone is known by its hash alone
        wanted = found if step.reason == KEPT else digest(compute(step, source.reader.read))
        planned.append(_planned(step, wanted))
        if found and found != wanted:
            problems.append(
                f"{target.path}: '{step.target.name}' is not what the plan makes of the source: "
                f"its xxh3-128 is {found}, not {wanted}"
            )
    return tuple(planned), problems


def _planned(step: Step, hashed: str) -> _Planned:
    return _Planned(
        step.layer,
        step.kind,
        tuple(spec.name for spec in step.sources),
        step.target.name,
        step.target.shape,
        step.target.dtype.name,
        step.done,
        tuple(map(repr, step.ops)),
        step.reason,
        hashed,
    )


def _stored(target: Weights, plan: Plan) -> Callable[[str], Array]:
    """What the target holds under a name; a list that was saved as one array is read row by row."""
    if plan.contents.container == "list" and target.contents.container == "tensor":
        (name,) = target
        return lambda row: target[name][int(row)]
    return target.__getitem__


# -- checking -------------------------------------------------------------------------------------------------------


def check_certificate(path: StrPath) -> Check:
    """Check a certificate: it is unchanged, so are the files, and the plan made anew gives the same tensors.

    Raises FormatError for a file that is no certificate.
    """
    file = Path(path)
    document = _load(file)
    problems = [] if document.seal == _seal(document) else [f"{path}: the certificate was changed after it was written"]
    for side, files in (
        ("source", document.source.files),
        ("target", document.target.files),
        ("given file", document.given),
    ):
        problems += [problem for entry in files for problem in _changed(side, entry, file.parent)]
    gone = [p for side in (document.source, document.target) for p in _gone(side, file.parent)]
    problems += gone
    if not any("is not there" in problem for problem in problems):
        problems += _repeated(document, file.parent)
    versions = _versions()
    notes = [
        f"{name} is {versions.get(name, 'not installed')} here, and was {version}"
        for name, version in document.versions.items()
        if versions.get(name) != version
    ]
    return Check(
        os.fspath(path),
        document.source.path,
        document.target.path,
        len(document.plan),
        tuple(dict.fromkeys(problems)),
        tuple(notes),
    )


def _load(path: Path) -> _Certificate:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Certificate)
    except FileNotFoundError:
        raise FormatError(path, "there is no such file") from None
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise FormatError(path, f"no certificate of a conversion: {error}") from None


def _changed(side: str, entry: HashedFile, base: Path) -> list[str]:
    file = base / entry.path
    if not file.is_file():
        return [f"{side}: {entry.path} is not there"]
    found = hashed(file, base)
    if found.bytes != entry.bytes:
        return [f"{side}: {entry.path} has {found.bytes} bytes, and had {entry.bytes}"]
    return [
        f"{side}: {entry.path} was changed: its {name} is {getattr(found, key)}, not {getattr(entry, key)}"
        for name, key in (("xxh3-128", "xxh3_128"), ("sha256", "sha256"))
        if getattr(found, key) != getattr(entry, key)
    ]


def _gone(side: _Side, base: Path) -> list[str]:
    known = {entry.path for entry in side.files}
    return [
        f"{found} belongs to {side.path} now, and was not part of it"
        for found in (relative(file, base) for file in files_of(base / side.path))
        if found not in known and (base / side.path).is_dir()
    ]


def _repeated(document: _Certificate, base: Path) -> list[str]:
    """Plan the conversion anew, do it again in memory, and compare both with what is written down."""
    from converter.commands.convert import convert

    options = dict(document.options)
    unknown = [name for name in options if name not in _parameters() or name in _NO_OPTIONS]
    if unknown or not isinstance(options.get("direction"), str):
        return [f"its options are none of this version: {', '.join(unknown) or 'there is no direction'}"]
    source, output = base / document.source.path, base / document.target.path
    options |= {name: str(base / file) for name, file in _named_files(options).items()}
    with ExitStack() as stack:
        try:
            report = convert(
                options.pop("direction"),
                source,
                output,
                format=document.target.format,
                **options,
                dry_run=True,
                force=True,
            )
            again = _opening(options)
            way = parse_direction(document.options["direction"])
            weights = stack.enter_context(read(source, framework=way.source.name, **again))
            target = stack.enter_context(read(output, framework=way.target.name))
            planned, problems = _replayed(report.plan, weights, target)
        except (ConversionError, TypeError, ValueError, AttributeError) as error:  # options of other types, too
            return [f"the conversion cannot be repeated: {error}"]
    return [*problems, *_other_plan(document.plan, planned), *_other_rest(document, report.plan)]


def _opening(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("step", "key", "names_from") if name in options}


def _other_plan(was: Sequence[_Planned], now: Sequence[_Planned]) -> list[str]:
    ours, theirs = ({step.target: step for step in steps} for steps in (was, now))
    problems = [f"plan: '{name}' is not made any more" for name in ours.keys() - theirs.keys()]
    problems += [f"plan: '{name}' is made, and was not" for name in theirs.keys() - ours.keys()]
    for name, step in ours.items():
        for key in _Planned.__struct_fields__ if name in theirs else ():
            before, after = getattr(step, key), getattr(theirs[name], key)
            if before != after:
                problems.append(f"plan: {key} of '{name}' is {_said(after)}, and was {_said(before)}")
    return problems


def _other_rest(document: _Certificate, plan: Plan) -> list[str]:
    if document.left_out == _left_out(plan):
        return []
    return [f"plan: {len(plan.left_out)} entries are left out, and they were others ({len(document.left_out)})"]


def _said(value: Any) -> str:
    return (
        ", ".join(value) or "nothing"
        if isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        else str(value)
    )
