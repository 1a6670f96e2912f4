"""Distributed checkpoints in safetensors, as two processes of torch 2.13 wrote them (make_two_ranks.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

import converter
from converter.errors import FormatError, UnsafeFileError
from tests.formats.contract import same_bits
from tests.formats.old_files import SAMPLES
from tests.formats.torch.test_samples import assert_holds
from tests.formats.torch.test_zip import assert_same, read

WHOLE = SAMPLES / "torch" / "two_ranks_safetensors"
FIRST, SECOND = sorted(file.name for file in WHOLE.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WHOLE, tmp_path / "checkpoint"))


def change(file: Path, **places: object) -> None:
    """Where the pieces of the file say that they start."""
    with converter.read(WHOLE) as weights:
        reader = weights.reader._files[file.name]  # type: ignore[attr-defined]
        info = json.loads(reader.contents.metadata["DCP_SHARDING_INFO"])
    info |= {name: {"saved_offsets": place} for name, place in places.items()}
    save_file(load_file(file), file, {"DCP_SHARDING_INFO": json.dumps(info)})


def test_the_pieces_of_two_processes_are_put_together() -> None:
    with converter.read(WHOLE) as weights:
        assert weights.format.name == "torch-distributed-safetensors" and weights.framework == "torch"
    found = read(WHOLE)
    assert_holds(found, "two_ranks")
    for file in (FIRST, SECOND):  # which alone would give parts of tensors
        again = read(WHOLE / file)
        assert again.keys() == found.keys() and all(same_bits(again[name], found[name]) for name in found)


@pytest.mark.parametrize("options", [{}, {"enable_consolidation": True}], ids=["pieces", "consolidated"])
def test_one_process(tmp_path: Path, options: dict[str, bool]) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) * 9)
    writer = HuggingFaceStorageWriter(str(tmp_path / "a"), save_distributed=True, **options)
    dcp.save(net.state_dict(), storage_writer=writer)
    found = read(tmp_path / "a")
    assert_same({name: found[name] for name in net.state_dict()}, dict(net.state_dict()))


def test_a_missing_piece_is_an_error(folder: Path) -> None:
    (folder / FIRST).unlink()
    with pytest.raises(FormatError, match=r"do not make up the shape .*is a file missing"):
        read(folder)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"rows": [2, 0]}, "of 'rows', .*overlaps|do not make up"),
        ({"rows": [4, 0]}, "of 'rows', the parts do not make up"),
        ({"rows": [-1, 0]}, "does not say where 'rows'"),
        ({"rows": [1 << 62, 0]}, "does not say where 'rows'"),
        ({"rows": [3]}, "does not say where 'rows'"),
        ({"rows": None}, "does not say where 'rows'"),
    ],
)
def test_places_that_cannot_be(folder: Path, places: dict[str, object], message: str) -> None:
    change(folder / SECOND, **places)
    with pytest.raises(FormatError, match=message):
        read(folder)


def test_pieces_of_two_dtypes(folder: Path) -> None:
    tensors = load_file(folder / SECOND)
    with converter.read(WHOLE) as weights:
        metadata = dict(weights.reader._files[SECOND].contents.metadata)  # type: ignore[attr-defined]
    save_file({**tensors, "rows": tensors["rows"].half()}, folder / SECOND, metadata)
    with pytest.raises(FormatError, match="the pieces of 'rows' have the dtypes"):
        read(folder)


def test_a_link_that_leads_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / SECOND).rename(tmp_path / "outside")
    (folder / SECOND).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeFileError, match="a link that leads out"):
        read(folder)
