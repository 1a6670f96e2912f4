"""Damage to real files: what a bad disk, a broken download, or someone with bad intent makes of them."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping

Files = dict[str, bytes]

#: What counts, sizes and tags of the formats are made of.
WORDS = [
    *(value.to_bytes(8, "little") for value in (0, 1, 2, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
    *(value.to_bytes(4, "little") for value in (0, 1, 2, 12, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)),
    *(value.to_bytes(4, "little") for value in (0xF993FAC8, 0xF993FAC9, 0xF993FACA)),
    *(b"().0}]tRbQcqhu\x81\x85\x86\x87\x8e\x93\x94\x96KJX\x8c\x7f\x80\xff"[i : i + 1] for i in range(25)),
    *(b"-1", b"99999999999", b'":', b"[", b"{", b"'|O'", b"<V1", b"True", b"../", b"null"),
]
#: Members that hold descriptions, where one changed byte tells more than in the numbers.
TELLING = (".pkl", ".json", "byteorder", ".metadata", ".index", ".index.json", "_METADATA", ".zarray", "checkpoint")


def damaged_files(files: Mapping[str, bytes], others: list[bytes], rng: random.Random) -> Files:
    """One of the files (of several mostly a describing one) damaged, the others as they were."""
    made = dict(files)
    telling = [name for name in files if name.endswith(TELLING)]
    name = rng.choice(telling if telling and rng.random() < 0.6 else sorted(files))
    data = files[name]
    made[name] = _damaged_zip(data, rng) if data.startswith(b"PK") and rng.random() < 0.7 else b""
    made[name] = made[name] or damaged(data, others, rng)
    return made


def damaged(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Bits flipped, words put in or over, bytes removed, repeated, taken from another file, or the end cut off."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(KINDS)(made, rng.randrange(len(made) + 1), others, rng)
    return bytes(made)


def _flip(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    if place < len(made):
        made[place] ^= 1 << rng.randrange(8)


def _put_word(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    word = rng.choice(WORDS)
    made[place : place + len(word) * rng.randrange(2)] = word


def _remove(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    del made[place : place + rng.randrange(1, 20)]


def _splice(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    made[place:place] = other[start : start + rng.randrange(1, 60)]


def _repeat(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    made[place:place] = made[place : place + rng.randrange(1, 40)] * rng.randrange(1, 5)


def _cut(made: bytearray, place: int, others: list[bytes], rng: random.Random) -> None:
    if rng.random() < 0.3:
        del made[place:]


KINDS = (_flip, _put_word, _remove, _splice, _repeat, _cut)


def _damaged_zip(data: bytes, rng: random.Random) -> bytes:
    """The archive with one member damaged and its CRC made right again; empty when the archive cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return b""
    telling = [name for name in members if name.endswith(TELLING)]
    victim = rng.choice(telling if telling and rng.random() < 0.7 else sorted(members)) if members else ""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, damaged(content, list(members.values()), rng) if name == victim else content)
    return buffer.getvalue()
