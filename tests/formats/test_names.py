"""Tensor names with a character that is a digit to `str.isdigit` and none to `int`: ``²``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import converter
from converter.core.natural_order import natural_key
from converter.formats import Contents, by_name, open_reader, open_writer
from tests.command import ok
from tests.formats.contract import specs_of
from tests.formats.every import FILES


@pytest.mark.parametrize("name", FILES)
def test_a_superscript_in_a_name_is_inspected_and_converted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = by_name(name)
    tensors = {"²/kernel": np.ones((2, 3), np.float32), "dense_10/kernel": np.zeros((2, 3), np.float32)}
    source, target = tmp_path / FILES[name], tmp_path / "converted.safetensors"
    with open_writer(row, source, Contents(specs_of(tensors), metadata=row.metadata)) as writer:
        for tensor, array in tensors.items():
            writer.write(tensor, array)
    assert "²" in ok(capsys, "inspect", source)
    framework = row.frameworks[0] if row.frameworks else "flax"
    converter.convert(f"{framework}->{framework}", source, target)
    with open_reader(target)[1] as reader:
        sums = [reader.read(spec.name).sum() for spec in reader.contents.specs]
    assert sorted(sums) == [0, 6]


def test_only_ascii_digits_count_as_numbers() -> None:
    names = ["b", "a_٣", "a_10", "a_²", "a_2", "9" * 5000]
    assert sorted(names, key=natural_key) == ["9" * 5000, "a_2", "a_10", "a_²", "a_٣", "b"]
