"""``pytorch_model.bin.index.json`` and its shards: which file holds which tensor.

Upstream: ``transformers/modeling_utils.py`` (save_pretrained) and ``huggingface_hub/serialization``.
"""

from __future__ import annotations

from pathlib import Path

from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.shards import ShardReader, ShardWriter, index_name
from converter.formats.torch import legacy as torch_legacy
from converter.formats.torch import zip as torch_zip

__all__ = ["FileReader", "FileWriter", "detect"]

_EXTENSION = ".bin.index.json"
_USUAL = "pytorch_model.bin.index.json"


def detect(probe: Probe) -> bool:
    """The index, or a folder with one such index."""
    if probe.is_dir:
        return index_name(probe.entries, _EXTENSION, _USUAL) is not None
    telling = probe.head + probe.tail
    named = probe.path.name.endswith(_EXTENSION) or b'.bin"' in telling
    return named and telling.lstrip().startswith(b"{") and b'"weight_map"' in telling


class FileReader(ShardReader):
    """Each shard is a PyTorch file of its own."""

    dtypes = torch_zip.FileReader.dtypes
    lazy = "tensor, or its zip member if packed"
    extension = _EXTENSION
    usual = _USUAL

    def open_shard(self, path: Path) -> Reader:
        probe = Probe(path)
        module = next((module for module in (torch_zip, torch_legacy) if module.detect(probe)), None)
        if module is None:
            raise FormatError(path, "not a PyTorch file, as its index says")
        opened: Reader = module.FileReader(path, ReadOptions(checksums=self.options.checksums), self.budget)
        return opened


class FileWriter(ShardWriter):
    """``path`` is that of the index, ``NAME.bin.index.json``; the shards are zip files of PyTorch."""

    extension = _EXTENSION
    suffix = ".bin"
    shard_writer = torch_zip.FileWriter
