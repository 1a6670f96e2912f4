"""Check a certificate: it is unchanged, so are the files, and the plan made anew gives the same tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from converter.commands import certificate as written
from converter.commands.convert import convert
from converter.endpoints.checkpoint import open_weights
from converter.endpoints.destination import parse_direction
from converter.errors import ConversionError, FormatError, text_of
from converter.formats.io.budget import Budget
from converter.formats.io.files import read_whole
from converter.formats.io.json import MAX_JSON
from converter.options import MatchOptions, ReadOptions, StrPath, WriteOptions, options_of

#: What a certificate may say of the options.
_KNOWN = {"direction", "like"}
for _record in (ReadOptions, MatchOptions, WriteOptions):
    _KNOWN |= {name for name, option in options_of(_record).items() if option.recorded}
#: What an item of a JSON text may take in memory.
_OBJECT_BYTES = 64


class CertificateCheck(msgspec.Struct, frozen=True):
    """The result of checking a certificate. problems: what is not as it says. notes: what differs and does no harm."""

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
        return {"compared": "certificate", "ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        count = "1 thing differs" if len(self.problems) == 1 else f"{len(self.problems)} things differ"
        verdict = f"does not hold: {count}"
        if self.ok:
            unchanged = f"{self.source} and {self.target} are unchanged"
            verdict = f"holds: {unchanged}, and the plan gives the same {self.tensors} tensors again"
        return text_of([*(f"note: {note}" for note in self.notes), *self.problems, f"{self.certificate} {verdict}"])


def check_certificate(path: StrPath) -> CertificateCheck:
    """Check a certificate. Raises FormatError for a file that is none, or that names files outside of its folder."""
    file = Path(path)
    document = _load(file)
    places = _places(file, document)
    problems = []
    if document.seal != written.seal_of(document):
        problems.append(f"{path}: the certificate was changed after it was written")
    files = {"source": document.source.files, "target": document.target.files, "named file": document.named}
    now_there: dict[str, written.HashedFile] = {}
    for what, entries in files.items():
        problems += [problem for entry in entries for problem in _changed(what, entry, places, now_there)]
    problems += [p for certified in (document.source, document.target) for p in _new_files(certified, places)]
    if not any("is not there" in problem for problem in problems):
        problems += _repeated(document, places)
    now = written.versions()
    notes = [
        f"{name} is {now.get(name, 'not installed')} here, and was {version}"
        for name, version in document.versions.items()
        if now.get(name) != version
    ]
    about = os.fspath(path), document.source.path, document.target.path, len(document.plan)
    return CertificateCheck(*about, tuple(dict.fromkeys(problems)), tuple(notes))


def _load(path: Path) -> written.Certificate:
    try:
        text = read_whole(path, MAX_JSON)
        cost = _OBJECT_BYTES * sum(map(text.count, (b",", b"[", b"{"))) + len(text) * (2 if text.isascii() else 8)
        Budget(path).charge(cost, "what it lists")
        return msgspec.json.decode(text, type=written.Certificate)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FormatError(path, f"no certificate of a conversion: {error}") from None


def _places(certificate: Path, document: written.Certificate) -> Mapping[str, Path]:
    """Each path that it names -> the file. Nothing is looked at before all are known to be in its folder."""
    entries = (*document.source.files, *document.target.files, *document.named)
    names = [document.source.path, document.target.path, *(file.path for file in entries)]
    names += written.named_files(document.options).values()
    return {name: written.inside(certificate, name) for name in names}


def _changed(
    what: str, entry: written.HashedFile, places: Mapping[str, Path], now_there: dict[str, written.HashedFile]
) -> list[str]:
    """now_there: the hashes of the files so far, each of which is read once."""
    file = places[entry.path]
    if not file.is_file():
        return [f"{what}: {entry.path} is not there"]
    if entry.path not in now_there:
        now_there[entry.path] = written.hashed(file, file.parent)
    now = now_there[entry.path]
    if now.bytes != entry.bytes:
        return [f"{what}: {entry.path} has {now.bytes} bytes, and had {entry.bytes}"]
    return [
        f"{what}: {entry.path} was changed: its {name} is {getattr(now, key)}, not {getattr(entry, key)}"
        for name, key in (("xxh3-128", "xxh3_128"), ("sha256", "sha256"))
        if getattr(now, key) != getattr(entry, key)
    ]


def _new_files(certified: written.CertifiedFile, places: Mapping[str, Path]) -> list[str]:
    folder = places[certified.path]
    known = {places[entry.path] for entry in certified.files}
    new = [file for file in (written.files_of(folder) if folder.is_dir() else ()) if file not in known]
    names = [os.path.normpath(os.path.join(certified.path, file.relative_to(folder))) for file in new]
    return [f"{name} belongs to {certified.path} now, and was not part of it" for name in names]


def _repeated(document: written.Certificate, places: Mapping[str, Path]) -> list[str]:
    """Plan the conversion anew, do it again in memory, and compare both with what is written down."""
    options = dict(document.options)
    unknown = sorted(options.keys() - _KNOWN)
    if unknown or not isinstance(options.get("direction"), str):
        return [f"it has options that this version does not know: {', '.join(unknown) or 'no direction'}"]
    source, output = places[document.source.path], places[document.target.path]
    # as paths: what a certificate says is never the name of code, nor a URL
    options |= {name: places[file] for name, file in written.named_files(options).items()}
    form = document.target.format
    with ExitStack() as stack:
        try:
            way = parse_direction(options.pop("direction"))
            read = ReadOptions(**{name: options[name] for name in options_of(ReadOptions) if name in options})
            direction = document.options["direction"]
            report = convert(direction, source, output, format=form, dry_run=True, force=True, **options)
            weights = stack.enter_context(open_weights(source, way.source.name, read))
            target = stack.enter_context(open_weights(output, way.target.name))
            planned, problems = written.replayed(report.plan, weights, target)
        except ConversionError as error:  # without its remedies: a certificate takes no options
            return [f"the conversion cannot be repeated: {problem.text}" for problem in error.problems]
        except TypeError as error:  # options of other types
            return [f"the conversion cannot be repeated: {error}"]
    left_out, now = document.left_out, report.plan.left_out
    if left_out != written.left_out_of(report.plan):
        problems.append(f"plan: {len(now)} entries are left out, and they were others ({len(left_out)})")
    return [*problems, *_other_plan(document.plan, planned)]


def _other_plan(then: Sequence[written.CertifiedStep], now: Sequence[written.CertifiedStep]) -> list[str]:
    steps_then, steps_now = ({step.target: step for step in steps} for steps in (then, now))
    problems = [f"plan: '{name}' is not made any more" for name in steps_then.keys() - steps_now.keys()]
    problems += [f"plan: '{name}' is made, and was not" for name in steps_now.keys() - steps_then.keys()]
    for name, step in steps_then.items():
        for key in written.CertifiedStep.__struct_fields__ if name in steps_now else ():
            before, after = getattr(step, key), getattr(steps_now[name], key)
            if before != after:
                problems.append(f"plan: {key} of '{name}' is {_said(after)}, and was {_said(before)}")
    return problems


def _said(value: Any) -> str:
    is_names = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    return (", ".join(value) or "nothing") if is_names else str(value)
