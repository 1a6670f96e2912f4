"""The statistics by which the Normalization of Keras prepares its input, which no other code base stores."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from tests.matching.test_what_people_know import Tensors, drawn

FC = {"fc.weight": (5, 3), "fc.bias": (5,)}
ONES, ZEROS = np.ones(3, np.float32), np.zeros(3, np.float32)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def keras_file(path: str, mean: np.ndarray, variance: np.ndarray, seed: int = 0) -> Tensors:
    """A Normalization and a Dense, as Keras 3 saves them; gives the latter as in PyTorch."""
    drawn_fc = drawn(FC, seed)
    layers = {
        "normalization": (mean, variance, np.int64(0)),
        "dense": (drawn_fc["fc.weight"].T, drawn_fc["fc.bias"]),
    }
    with h5py.File(path, "w") as file:
        for name, values in layers.items():
            for number, value in enumerate(values):
                file[f"layers/{name}/vars/{number}"] = value
    return drawn_fc


def to_torch(**options: bool) -> tuple[Tensors, str]:
    save_file(drawn(FC, 1), "clone.safetensors")
    report = converter.convert("keras->torch", "a.weights.h5", "b.safetensors", like="clone.safetensors", **options)
    return load_file("b.safetensors"), str(report)


def test_a_normalisation_that_changes_nothing_is_left_out() -> None:
    ours = keras_file("a.weights.h5", ZEROS, ONES)
    made, report = to_torch(strict=False)
    assert np.array_equal(made["fc.weight"], ours["fc.weight"]) and np.array_equal(made["fc.bias"], ours["fc.bias"])
    assert "left out: layers/normalization/vars/1 (it normalises the input by a mean of 0 and a variance of 1" in report


@pytest.mark.parametrize(("mean", "variance"), [(ZEROS + 0.5, ONES), (ZEROS, ONES * 2)])
def test_a_normalisation_that_does_something_is_a_question(mean: np.ndarray, variance: np.ndarray) -> None:
    keras_file("a.weights.h5", mean, variance)
    with pytest.raises(
        converter.MatchError, match=r"is to be given \(x - mean\) / sqrt\(variance\).*ignore="
    ) as raised:
        to_torch()
    assert len(raised.value.problems) == 1
    save_file(drawn(FC, 1), "clone.safetensors")
    options = {"like": "clone.safetensors", "ignore": "normalization.vars.*"}
    report = converter.convert("keras->torch", "a.weights.h5", "b.safetensors", **options)
    assert "ignored: normalization.vars.*" in str(report)


@pytest.mark.parametrize("variance", [ONES, ONES * 2])
def test_a_clone_keeps_its_own_normalisation(variance: np.ndarray) -> None:
    """What it does to the input the source's net does not do: so that is likely, where it is anything."""
    keras_file("clone.weights.h5", ZEROS, variance, 1)
    ours = drawn(FC, 2)
    save_file(ours, "a.safetensors")
    report = converter.convert("torch->keras", "a.safetensors", "b.weights.h5", like="clone.weights.h5")
    with h5py.File("b.weights.h5") as made:
        assert np.array_equal(made["layers/normalization/vars/1"][()], variance)
        assert np.array_equal(made["layers/dense/vars/0"][()], ours["fc.weight"].T)
    is_likely = "likely: kept from the clone: it normalises the input, and the source does not" in str(report)
    assert is_likely == (variance is not ONES) and "kept from the clone" in str(report)
    options = {"like": "clone.weights.h5", "strict": True, "force": True}
    options["map"] = {"fc": "dense"}
    if variance is ONES:
        converter.convert("torch->keras", "a.safetensors", "b.weights.h5", **options)
        return
    with pytest.raises(converter.MatchError, match=r"nothing in the source fits 'normalization.vars.0'"):
        converter.convert("torch->keras", "a.safetensors", "b.weights.h5", **options)


def test_three_tensors_of_another_layer_are_asked_about() -> None:
    with h5py.File("a.weights.h5", "w") as file:
        for number, value in enumerate((ZEROS, ONES, np.int64(0))):
            file[f"layers/own_layer/vars/{number}"] = value
        file["layers/dense/vars/0"] = drawn(FC)["fc.weight"].T
        file["layers/dense/vars/1"] = drawn(FC)["fc.bias"]
    with pytest.raises(converter.MatchError, match=r"'own_layer.vars.0' .* has no counterpart"):
        to_torch()
