"""Damage to real files, as values: what a bad disk, a broken download, or someone with bad intent makes of them.

Hypothesis draws them, so a failure shrinks to its smallest damage; as JSON they are typed again on another machine.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, reduce

from hypothesis import strategies as st

from tests.fuzz.seeds import Seed
from tests.fuzz.structure import Change, changed, changes, has_structure

#: What counts, sizes and tags of the formats are made of.
WORDS = [
    *(value.to_bytes(8, "little") for value in (0, 1, 2, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    *(value.to_bytes(4, "little") for value in (0, 1, 2, 12, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)),
    *(value.to_bytes(4, "little") for value in (0xF993FAC8, 0xF993FAC9, 0xF993FACA)),
    *(b"().0}]tRbQcqhu\x81\x85\x86\x87\x8e\x93\x94\x96KJX\x8c\x7f\x80\xff"[i : i + 1] for i in range(25)),
    *(b"-1", b"99999999999", b'":', b"[", b"{", b"'|O'", b"<V1", b"True", b"../", b"null"),
]
#: Parts that hold descriptions, where one changed byte tells more than in the numbers.
TELLING = (".pkl", ".json", "byteorder", ".metadata", ".index", ".index.json", "_METADATA", ".zarray", "checkpoint")


@dataclass(frozen=True)
class Edit:
    """``removed`` bytes at ``place`` give way to the bytes ``put`` (hexadecimal)."""

    place: int
    removed: int
    put: str

    def of(self, data: bytes) -> bytes:
        return data[: self.place] + bytes.fromhex(self.put) + data[self.place + self.removed :]


@dataclass(frozen=True)
class Case:
    """A damaged seed and how it is read: ``directly`` is by the row's own reader, whatever the content says.

    file: of the seed. member: of the archive that this file is, which gets a right CRC; "" for the bytes of the file.
    changes: of the structure of the file, after which all sizes and checksums are right; before the edits.
    """

    row: str
    seed: str
    file: str
    member: str
    edits: tuple[Edit, ...]
    verify: bool
    directly: bool
    changes: tuple[Change, ...] = ()

    def files(self, seed: Seed) -> dict[str, bytes]:
        data = changed(seed.files[self.file], self.changes)
        if not self.member:
            return {**seed.files, self.file: self._damaged(data)}
        members = _members(data)
        return {**seed.files, self.file: _zipped({**members, self.member: self._damaged(members[self.member])})}

    def _damaged(self, data: bytes) -> bytes:
        return reduce(lambda made, edit: edit.of(made), self.edits, data)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        fields = json.loads(text)
        edits = tuple(Edit(**edit) for edit in fields["edits"])
        return cls(**{**fields, "edits": edits, "changes": tuple(Change(**change) for change in fields["changes"])})


@st.composite
def cases(draw: st.DrawFn, row: str, seeds: Mapping[str, Seed]) -> Case:
    """Any seed of the row with one file, or one member of an archive, damaged in one or a few places; or with the
    structure of a file changed."""
    seed = draw(st.sampled_from([seed for seed in seeds.values() for _ in range(seed.weight)]))
    structured = [name for name, data in seed.files.items() if has_structure(data)]
    if structured and draw(st.booleans()):
        several = draw(st.lists(changes(), min_size=1, max_size=draw(st.sampled_from(MOST_CHANGES))))
        file, verify, directly = draw(st.sampled_from(structured)), draw(st.booleans()), draw(st.booleans())
        return Case(row, seed.name, file, "", (), verify, directly, tuple(several))
    part = draw(_parts(seed))
    others = tuple(data for other in seeds.values() for data in other.files.values())
    edits = draw(st.lists(_edits(part.data, others), min_size=1, max_size=draw(st.sampled_from(MOST_EDITS))))
    return Case(row, seed.name, part.file, part.member, tuple(edits), draw(st.booleans()), draw(st.booleans()))


@dataclass(frozen=True)
class _Part:
    file: str
    member: str
    data: bytes


@cache
def _parts(seed: Seed) -> st.SearchStrategy[_Part]:
    """As often a whole file as a member of an archive as a part of either sort that describes the others."""
    whole = [_Part(name, "", data) for name, data in seed.files.items()]
    inner = [_Part(part.file, *member) for part in whole for member in _members(part.data).items()]
    telling = [part for part in whole + inner if (part.member or part.file).endswith(TELLING)]
    return st.one_of([st.sampled_from(parts) for parts in (whole, inner, telling) if parts])


@st.composite
def _edits(draw: st.DrawFn, data: bytes, others: tuple[bytes, ...]) -> Edit:
    return draw(st.sampled_from(KINDS))(draw, draw(st.integers(0, len(data))), data, others)


def _flip(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    bit = 1 << draw(st.integers(0, 7))
    return Edit(place, 1, bytes(byte ^ bit for byte in data[place : place + 1]).hex())


def _word(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    word = draw(st.sampled_from(WORDS))
    return Edit(place, len(word) * draw(st.integers(0, 1)), word.hex())


def _remove(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    return Edit(place, draw(st.integers(1, 20)), "")


def _splice(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    other = draw(st.sampled_from(others))
    start = draw(st.integers(0, len(other)))
    return Edit(place, 0, other[start : start + draw(st.integers(1, 60))].hex())


def _repeat(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    return Edit(place, 0, (data[place : place + draw(st.integers(1, 40))] * draw(st.integers(1, 5))).hex())


def _cut(draw: st.DrawFn, place: int, data: bytes, others: tuple[bytes, ...]) -> Edit:
    return Edit(place, len(data) - place, "")


#: Cuts are the fewest: what stands behind them is not read.
KINDS = (_flip, _flip, _flip, _word, _word, _word, _remove, _remove, _splice, _splice, _repeat, _repeat, _cut)
MOST_CHANGES = (1, 1, 2, 4)
#: Mostly a single one, for what is behind the first damage is seldom reached.
MOST_EDITS = (1, 1, 1, 2, 4, 16)


@lru_cache(maxsize=64)
def _members(data: bytes) -> dict[str, bytes]:
    """{} for what is no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {info.filename: archive.read(info) for info in archive.infolist()}
    except zipfile.BadZipFile:
        return {}


def _zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
