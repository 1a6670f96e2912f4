"""Tied weights: an embedding that is the output layer, too. PyTorch and MXNet store it twice, Keras and Flax once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

import converter
from tests.command import ok, refused
from tests.parity.across import into, saved
from tests.parity.sides import SIDES, Array, Case, assert_same, by_clone, every
from tests.parity.tied_cases import CASES, LONE_BIAS, TIED, TOKENS, WIDTH, WORDS, TorchTied

UNTIED = Case("untied output", {"torch": lambda: TorchTied(tied=False)}, (TOKENS,))
TWICE, ONCE = ("torch", "gluon"), ("keras", "tf_keras", "linen", "nnx")


@pytest.mark.parametrize(("case", "source", "target"), every(CASES, Case.edges))
def test_into_a_clone_s_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[str] = []
    by_clone(case, source, target, tmp_path, lambda *words: reports.append(ok(capsys, *words)))
    twice = set(TWICE) - ({"torch"} if case is LONE_BIAS else set())
    left_out = source in twice and target not in twice
    assert ("left out: out.weight (tied to emb.weight)" in reports[0]) == left_out
    assert ("tied to emb.weight" in reports[0]) == ((source in twice) != (target in twice))


@pytest.mark.parametrize("source", TWICE)
@pytest.mark.parametrize("ending", [".ckpt", ".npz"])
def test_a_template_of_another_format(
    source: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names are spelled otherwise, and the contents still tell."""
    target = {".ckpt": "keras", ".npz": "torch"}[ending]
    net, given = saved(TIED, source, tmp_path, 1)
    _, like = saved(TIED, target, tmp_path, 2, "like")
    result = tmp_path / f"result{ending}"
    ok(capsys, f"{SIDES[source].framework}->{SIDES[target].framework}", given, "--like", like, "-o", result)
    with converter.read(result, framework=SIDES[target].framework) as weights:
        arrays = {name: weights[name] for name in weights}
    embeddings = [array for name, array in arrays.items() if array.shape == (WORDS, WIDTH)]
    assert len(embeddings) == (2 if target == "torch" else 1)
    expected = weight_of(source, net)
    assert all(array.tobytes() == expected.tobytes() for array in embeddings)


def weight_of(flavour: str, net: Any) -> Array:
    if flavour == "torch":
        found: Array = net.emb.weight.detach().numpy()
        return found
    return np.asarray(net.emb.weight.data().asnumpy())


@pytest.mark.parametrize("target", ONCE)
def test_what_only_looks_tied_is_not_left_out(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(UNTIED, "torch", tmp_path, 1)
    _, like = saved(TIED, target, tmp_path, 2, "like")
    side = SIDES[target]
    message = refused(capsys, f"torch->{side.framework}", given, "--like", like, "-o", tmp_path / f"out{side.ending}")
    assert "'out' (out.weight (7, 5)) has no counterpart in the clone" in message


def test_an_untied_clone_is_not_filled_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(TIED, "linen", tmp_path, 1)
    _, like = saved(UNTIED, "torch", tmp_path, 2, "like")
    message = refused(capsys, "flax->torch", given, "--like", like, "-o", tmp_path / "out.pt")
    assert "nothing in the source fits 'out' of the clone" in message


class Norms(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 4)
        for number in range(count):
            setattr(self, "ab"[number], torch.nn.LayerNorm(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(self.fc(x)))


@pytest.mark.parametrize("fresh", ["source", "clone"])
def test_fresh_layers_that_are_equal_are_not_tied(
    fresh: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ones and zeros: every norm of a fresh net is equal to the next."""
    one, two = Norms(1), Norms(2)
    source, clone = (two, one) if fresh == "source" else (one, two)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    torch.save(clone.state_dict(), tmp_path / "like.pt")
    message = refused(
        capsys, "torch->torch", tmp_path / "a.pt", "--like", tmp_path / "like.pt", "-o", tmp_path / "out.pt"
    )
    assert "'b'" in message


@pytest.mark.parametrize("source", TWICE)
def test_a_neutral_file_holds_it_once(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, given = saved(TIED, source, tmp_path, 1)
    middle = tmp_path / "middle.safetensors"
    framework = SIDES[source].framework
    kinds = ("--kind", "emb=embedding", "--kind", "out=linear")
    ok(capsys, f"{framework}->neutral", given, "-o", middle, *kinds)
    with safetensors.safe_open(middle, "np") as file:
        assert sorted(file.keys()) == ["emb.weight", "fc.bias", "fc.weight"]
        assert json.loads(file.metadata()["converter"])["aliases"] == {"out.weight": "emb.weight"}
    for target in TIED.nets:
        side = SIDES[target]
        _, like = saved(TIED, target, tmp_path, 2, "like")
        result = tmp_path / f"result{side.ending}"
        ok(capsys, f"neutral->{side.framework}", middle, "--like", like, "-o", result, "--force")
        assert_same(TIED.run(target, side.load(TIED.fresh(target), result)), TIED.run(source, net))
    back = tmp_path / f"back{SIDES[source].ending}"
    ok(capsys, f"neutral->{framework}", middle, "-o", back)  # with no template, both names are back
    found = SIDES[source].load(TIED.fresh(source), back)
    assert_same(TIED.run(source, found), TIED.run(source, net))


def test_a_neutral_file_whose_alias_leads_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.numpy import load_file, save_file

    _, given = saved(TIED, "torch", tmp_path, 1)
    middle = tmp_path / "middle.safetensors"
    ok(capsys, "torch->neutral", given, "-o", middle, "--kind", "emb=embedding", "--kind", "out=linear")
    with safetensors.safe_open(middle, "np") as file:
        document = file.metadata()["converter"].replace('"out.weight":"emb.weight"', '"out.weight":"emb.wait"')
    save_file(load_file(middle), middle, {"converter": document})
    assert "its alias for 'emb.wait'" in refused(capsys, "neutral->torch", middle, "-o", tmp_path / "out.pt")


@pytest.mark.parametrize("source", ["torch", "linen"])
def test_both_names_get_every_bit(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = saved(TIED, source, tmp_path, 1)
    into(TIED, source, TIED, "torch", tmp_path, lambda *words: ok(capsys, *words))
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    expected = net.emb.weight.detach() if source == "torch" else net.variables["params"]["emb"]["embedding"]
    assert np.array_equal(found["out.weight"], expected) and np.array_equal(found["emb.weight"], expected)
