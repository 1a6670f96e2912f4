"""Folders of steps, with flax.training.checkpoints and Orbax's CheckpointManager as the oracles."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen
from flax.training import checkpoints, train_state

from converter.errors import ConversionError, FormatError
from converter.formats import ReadOptions, open_reader
from tests.formats.contract import random_array, same_bits
from tests.formats.old_files import SAMPLES, expected_of

Arrays = dict[str, np.ndarray[Any, Any]]


def read(path: Path, step: int | None = None, row: str = "flax-checkpoint") -> Arrays:
    found, reader = open_reader(path, ReadOptions(step=step))
    with reader:
        assert found.name == row
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def tree(step: int) -> dict[str, Any]:
    return {"params": {"hidden": {"kernel": jnp.asarray(random_array((3, 4), "float32", step))}}}


def save(folder: Path, steps: tuple[int, ...], legacy: bool, **options: Any) -> Path:
    former = flax.config.flax_use_orbax_checkpointing
    flax.config.update("flax_use_orbax_checkpointing", not legacy)
    try:
        for step in steps:
            checkpoints.save_checkpoint(folder, tree(step), step, keep=99, overwrite=True, **options)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", former)
    return folder


@pytest.mark.parametrize("legacy", [True, False])
def test_the_newest_step_is_taken_and_another_on_request(tmp_path: Path, legacy: bool) -> None:
    folder = save(tmp_path / "c", (3, 5, 10), legacy)
    (folder / "events.out.tfevents.123").write_bytes(b"\x18")
    (folder / "checkpoint_11.orbax-checkpoint-tmp-12").mkdir()
    for asked, given in ((None, 10), (3, 3), (5, 5)):
        back = read(folder, asked)
        assert list(back) == ["params/hidden/kernel"]
        assert same_bits(back["params/hidden/kernel"], np.asarray(tree(given)["params"]["hidden"]["kernel"]))
    with pytest.raises(FormatError, match="has no step 4; there are 3, 5, 10"):
        read(folder, 4)
    direct = read(folder / "checkpoint_5", row="flax-msgpack" if legacy else "orbax")
    assert same_bits(direct["params/hidden/kernel"], np.asarray(tree(5)["params"]["hidden"]["kernel"]))


def test_several_names_in_one_folder(tmp_path: Path) -> None:
    save(tmp_path, (1, 2), True, prefix="gen_")
    save(tmp_path, (7,), True, prefix="disc_")
    with pytest.raises(FormatError, match=r"several names: 'disc_\*', 'gen_\*'. Name the one to read."):
        read(tmp_path)
    save(tmp_path, (4,), True)
    _, reader = open_reader(tmp_path)
    with reader:
        assert {line.name for line in reader.contents.left_out} == {"disc_*", "gen_*"}
        name = reader.contents.specs[0].name
        assert same_bits(reader.read(name), np.asarray(tree(4)["params"]["hidden"]["kernel"]))


def test_steps_of_a_manager(tmp_path: Path) -> None:
    options = ocp.CheckpointManagerOptions(step_prefix="step", step_format_fixed_length=8)
    for folder, chosen in ((tmp_path / "plain", None), (tmp_path / "named", options)):
        with ocp.CheckpointManager(folder, options=chosen) as manager:
            for step in (9, 10, 100):
                manager.save(step, args=ocp.args.StandardSave(tree(step)))
        for asked, given in ((None, 100), (9, 9)):
            back = read(folder, asked)
            assert same_bits(back["params/hidden/kernel"], np.asarray(tree(given)["params"]["hidden"]["kernel"]))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_train_state(tmp_path: Path, legacy: bool) -> None:
    params = linen.Dense(3).init(__import__("jax").random.key(0), jnp.ones((1, 2)))["params"]
    state = train_state.TrainState.create(apply_fn=lambda: None, params=params, tx=optax.adam(1e-3))
    flax.config.update("flax_use_orbax_checkpointing", not legacy)
    try:
        checkpoints.save_checkpoint(tmp_path, state, 1)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", False)
    back = read(tmp_path)
    assert back.keys() == {"params/kernel", "params/bias"}
    assert same_bits(back["params/kernel"], np.asarray(params["kernel"]))


def test_folders_of_old_releases() -> None:
    for name, row in (
        ("flax-0.6.11/ckpt_legacy", "flax-checkpoint"),
        ("flax-0.6.11/ckpt_legacy/checkpoint_5", "flax-msgpack"),
        ("flax-0.6.11/pytree_mixed", "orbax"),
        ("flax-0.8.5/ckpt_orbax", "flax-checkpoint"),
        ("flax-0.8.5/manager_default", "flax-checkpoint"),
        ("flax-0.8.5/manager_default/0", "orbax"),
    ):
        path = SAMPLES / "jax" / name
        back = read(path, row=row)
        known = next(
            p for p in (path, path / "checkpoint_5", path / "0") if p.with_name(p.name + ".expected.npz").exists()
        )
        expected = expected_of(known)
        assert back.keys() == expected.keys()
        assert all(same_bits(back[key], array) for key, array in expected.items())


def test_a_damaged_newest_step_is_an_error_not_the_step_before(tmp_path: Path) -> None:
    folder = save(tmp_path / "c", (1, 2), True)
    data = (folder / "checkpoint_2").read_bytes()
    for length in (0, 1, 20, len(data) - 1):
        (folder / "checkpoint_2").write_bytes(data[:length])
        with pytest.raises(ConversionError):
            read(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ConversionError):
        read(folder)
