"""Sources and a cluster for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distributed import Client

from converter.commands.convert import convert
from tests.execution.sharding import TwoWorkers


@pytest.fixture(scope="module")
def sharded_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    shapes = {f"blocks.{i}.dense.weight": (300 + i, 500 - i) for i in range(8)}
    shapes |= {f"blocks.{i}.dense.bias": (300 + i,) for i in range(8)}
    path = tmp_path_factory.mktemp("source") / "source.pt"
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture(scope="module")
def neutral(sharded_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neutral") / "source.safetensors"
    convert("torch->neutral", sharded_source, path)
    return path


@pytest.fixture(scope="package")
def two_workers() -> Iterator[TwoWorkers]:
    """Their processes are never quite idle, so they end with the tests of this folder."""
    kept = TwoWorkers()
    yield kept
    kept.close()


@pytest.fixture
def cluster(two_workers: TwoWorkers) -> Client:
    return two_workers.client()
