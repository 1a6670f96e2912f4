"""Tables of positions of which one net has two rows more, that are never looked up (BART, OPT)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import converter
from tests.matching.test_what_people_know import converted, drawn

SHORT = {"tokens.weight": (9, 4), "positions.weight": (6, 4), "fc.weight": (5, 4), "fc.bias": (5,)}
LONG = {**SHORT, "positions.weight": (8, 4)}
SAID = "its first 2 rows are no positions"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rows_that_are_no_positions_are_left_out() -> None:
    ours = drawn(LONG)
    made, report = converted(ours, drawn(SHORT, 1))
    assert np.array_equal(made["positions.weight"], ours["positions.weight"][2:])
    assert np.array_equal(made["tokens.weight"], ours["tokens.weight"])
    assert "without its first 2 rows" in report and f"likely: same name; {SAID}" in report
    assert converter.verify("source.safetensors", "made.safetensors").ok


def test_the_clone_keeps_its_rows_that_are_no_positions() -> None:
    ours, theirs = drawn(SHORT), drawn(LONG, 1)
    made, report = converted(ours, theirs, certificate="made.json")
    expected = np.concatenate((theirs["positions.weight"][:2], ours["positions.weight"]))
    assert np.array_equal(made["positions.weight"], expected)
    assert "behind the first 2 rows of the clone" in report and SAID in report
    assert converter.verify("source.safetensors", "made.safetensors").ok
    assert converter.verify("made.json").ok
    made["positions.weight"][2, 0] += 1
    save_file(made, "made.safetensors")
    assert not converter.verify("source.safetensors", "made.safetensors").ok
    assert "'positions.weight' is not what the plan makes of the source" in str(converter.verify("made.json"))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_both_parts_are_cast_at_once(dtype: str) -> None:
    ours, theirs = drawn(SHORT), {name: value.astype(np.float16) for name, value in drawn(LONG, 1).items()}
    made, _ = converted(ours, theirs, dtype=dtype)
    table = made["positions.weight"]
    assert table.dtype == np.dtype(dtype)
    assert np.array_equal(table[2:], ours["positions.weight"].astype(dtype))
    assert np.array_equal(table[:2], theirs["positions.weight"][:2].astype(dtype))
    made, _ = converted(ours, theirs, force=True)
    assert np.array_equal(made["positions.weight"][2:], ours["positions.weight"].astype(np.float16))


def test_between_frameworks_and_into_shards() -> None:
    ours = drawn(SHORT)
    save_file(drawn(LONG, 1), "clone.safetensors")
    save_file(ours, "source.safetensors")
    tables = {"tokens": "embedding", "positions": "embedding"}
    converter.convert("torch->keras", "source.safetensors", "source.npz", kind=tables)
    options: dict[str, Any] = {"like": "clone.safetensors", "max_shard_size": 200}
    converter.convert("keras->torch", "source.npz", "made.safetensors.index.json", **options)
    with converter.open("made.safetensors.index.json") as made:
        assert np.array_equal(made["positions.weight"][2:], ours["positions.weight"])
        assert np.array_equal(made["positions.weight"][:2], drawn(LONG, 1)["positions.weight"][:2])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = torch.nn.Embedding(9, 4), torch.nn.Embedding(8, 4)
        self.fc = torch.nn.Linear(4, 5)


def test_a_live_net_keeps_its_rows() -> None:
    save_file(drawn(SHORT), "source.safetensors")
    net = Net()
    before = net.positions.weight.detach().numpy()[:2].copy()
    converter.load_into(net, "source.safetensors")
    table = net.positions.weight.detach().numpy()
    assert np.array_equal(table[:2], before) and np.array_equal(table[2:], drawn(SHORT)["positions.weight"])


IMAGES = {"conv.weight": (4, 3, 2, 2), "conv.bias": (4,)}


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (SHORT, LONG, {"strict": True}),
        (LONG, SHORT, {"strict": True}),
        (SHORT, {**SHORT, "positions.weight": (7, 4)}, {}),
        (SHORT, {**SHORT, "positions.weight": (9, 4)}, {}),
        ({**LONG, **IMAGES}, {**SHORT, **IMAGES}, {}),  # of a class token, say, and another one
        *(
            (
                {**{n: s for n, s in LONG.items() if "pos" not in n}, name: LONG["positions.weight"]},
                {**{n: s for n, s in SHORT.items() if "pos" not in n}, name: SHORT["positions.weight"]},
                {},
            )
            for name in ("types.weight", "relative_positions.weight")
        ),
    ],
)
def test_other_rows_are_a_question(
    ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], options: dict[str, Any]
) -> None:
    with pytest.raises(converter.MatchError):
        converted(drawn(ours), drawn(theirs, 1), **options)
