"""Files that by their names are one of several, and no whole net: shards that were taken from beside their index."""

from __future__ import annotations

import re
from pathlib import Path

from converter.errors import FormatError
from converter.formats.io.json import MAX_JSON
from converter.formats.locations import open_binary

__all__ = ["is_shard_name", "refuse_part"]

_SHARD = re.compile(r"(?P<stem>.*)-\d+-of-(?P<count>\d{1,9})(?P<rest>(?:\.[A-Za-z0-9]*)*)")
_KERAS_SHARD = re.compile(r"(?P<stem>.+)_\d{5}\.weights\.h5")
#: One of each processor of a group that trained or runs the net together (Llama, DeepSpeed).
_RANK = re.compile(r"(?P<stem>consolidated\.|mp_rank_)(?P<rank>\d\d)(?P<rest>\D.*)")
_ALONE = "To convert this part alone, give it another name"


def is_shard_name(name: str) -> bool:
    """Whether this is the name of one of several, as ``model-00001-of-00002.safetensors``."""
    shard = _SHARD.fullmatch(name)
    return shard is not None and int(shard["count"]) > 1


def refuse_part(path: Path) -> None:
    """Raises FormatError, naming the index or what is missing, for a file that is only a part of a net."""
    name = path.name
    if is_shard_name(name):
        shard = _SHARD.fullmatch(name)
        assert shard is not None
        usual = f"{shard['stem']}{shard['rest']}.index.json"
        raise FormatError(path, f"one of {int(shard['count'])} shards, not the whole net. {_next(path, usual)}")
    keras = _KERAS_SHARD.fullmatch(name)
    if keras and (index := _index_of(path, f"{keras['stem']}.weights.json")):
        raise FormatError(path, f"one of several shards, not the whole net. Name the map of them, '{index}'. {_ALONE}")
    if keras and _is_first_alone(path, keras["stem"]):
        usual = f"{keras['stem']}.weights.json"
        raise FormatError(path, f"a shard of Keras by its name, not the whole net. {_next(path, usual)}")
    rank = _RANK.fullmatch(name)
    others = sorted(path.parent.glob(f"{rank['stem']}[0-9][0-9]{rank['rest']}")) if rank else []
    if len(others) > 1:
        text = f"one of {len(others)} slices of a net, each for one processor, with '{others[-1].name}' beside it"
        raise FormatError(path, f"{text}. Take a checkpoint in which they are put together. {_ALONE}")


def _next(path: Path, usual: str) -> str:
    """What to do about a shard."""
    index = _index_of(path, usual)
    if index:
        return f"Name its index, '{index}', or the folder. {_ALONE}"
    return f"Its index ('{usual}' or alike) is not beside it: fetch that and the other shards. {_ALONE}"


def _index_of(path: Path, usual: str) -> str:
    """The JSON file beside it that names it; "" for none."""
    if not path.parent.is_dir():
        return ""
    files = [file for file in path.parent.iterdir() if file.name.endswith(".json")]
    for file in sorted(files, key=lambda file: (file.name != usual, file.name)):
        if file.is_file() and f'"{path.name}"'.encode() in _text(file):
            return file.name
    return ""


def _text(file: Path) -> bytes:
    with open_binary(file) as stream:
        return stream.read(MAX_JSON)


def _is_first_alone(path: Path, stem: str) -> bool:
    """Whether shards begin here. A series of whole checkpoints may be numbered so, too: those have all one size."""
    first = path.with_name(f"{stem}_00000.weights.h5")
    if not first.is_file():
        return False
    sizes = [file.stat().st_size for file in path.parent.glob(f"{stem}_[0-9][0-9][0-9][0-9][0-9].weights.h5")]
    return len(sizes) == 1 or len(set(sizes)) > 1
