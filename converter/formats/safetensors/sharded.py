"""``model.safetensors.index.json`` and its shards, as the Hugging Face hub and ``save_pretrained`` make them.

Format: ``huggingface_hub/serialization``: ``{"metadata": {"total_size": bytes}, "weight_map": {tensor:
file name}}``. A file that the index names must stand beside it; see `shards.shard_path`.
"""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.formats.base import Probe, Reader
from converter.formats.io.shards import MAX_SHARD_BYTES, Shard, ShardReader, ShardWriter, index_name
from converter.formats.safetensors import file as safetensors
from converter.formats.safetensors.naming import without_aliases

EXTENSION = ".safetensors.index.json"
USUAL = "model" + EXTENSION


def detect(probe: Probe) -> bool:
    """The index, or a folder with one."""
    if probe.is_dir:
        return index_name(probe.entries, EXTENSION, USUAL) is not None
    head = probe.head.lstrip()
    return head[:1] == b"{" and (probe.path.name.endswith(EXTENSION) or b'.safetensors"' in head + probe.tail)


class FileReader(ShardReader):
    dtypes = safetensors.FileReader.dtypes
    extension = EXTENSION
    usual = USUAL

    def open_shard(self, path: Path) -> Reader:
        return safetensors.FileReader(path, self.options, self.budget)


class FileWriter(ShardWriter):
    """``path`` is that of the index, ``NAME.safetensors.index.json``."""

    extension = EXTENSION
    suffix = ".safetensors"
    shard_writer = safetensors.FileWriter

    @classmethod
    def shards(cls, path: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES) -> tuple[Shard, ...]:
        """In the index each tensor has a file, so that none is left out as tied."""
        metadata = without_aliases(contents.metadata, contents.by_name)
        return super().shards(path, replace(contents, metadata=metadata), max_shard_bytes)
