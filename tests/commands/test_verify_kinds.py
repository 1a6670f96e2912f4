"""`converter.verify` is one question: is it right? Of two files, two nets, a file and a net, or a certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter.commands.verify_certificate import CertificateCheck
from converter.commands.verify_files import WeightComparison
from converter.commands.verify_nets import ForwardComparison
from tests.chapter import SIDES, FlaxMLP, TorchMLP, example_input, flax_net, keras_net, random_weights, torch_net
from tests.command import ok, refused, run


def saved(folder: Path, side: str, seed: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / SIDES[side].file
    SIDES[side].save(SIDES[side].make(random_weights(seed)), path)
    return path


def data(result: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(json.dumps(result.to_dict(), default=str))
    return loaded


def test_two_files(tmp_path: Path) -> None:
    a, b = saved(tmp_path, "torch"), saved(tmp_path, "flax")
    result = converter.verify(a, b)
    assert isinstance(result, WeightComparison) and result.ok
    assert str(result) == f"{a} and {b} hold the same weights: 4 tensors are equal bit for bit"
    assert data(result)["compared"] == "weights" and data(result)["ok"] is True
    other = converter.verify(a, saved(tmp_path / "other", "flax", 2))
    assert not other.ok and str(other).endswith("are different: 4 of 4 tensors differ")


def test_two_live_nets_without_an_input_are_compared_by_their_weights() -> None:
    result = converter.verify(torch_net(random_weights(1)), keras_net(random_weights(1)), schema="mlp")
    assert isinstance(result, WeightComparison) and result.ok and len(result.tensors) == 4
    assert str(result) == "TorchMLP and KerasMLP hold the same weights: 4 tensors are equal bit for bit"
    assert not converter.verify(torch_net(random_weights(1)), torch_net(random_weights(2))).ok


def test_two_live_nets_and_an_input_are_run() -> None:
    a, b = torch_net(random_weights(1)), (FlaxMLP(), flax_net(random_weights(1)))
    result = converter.verify(a, b, example_input())
    assert isinstance(result, ForwardComparison) and result.ok and result.first is None
    assert "the outputs of a (PyTorch) and b (Flax) agree within the relative tolerance (1e-05 for float32)" in str(
        result
    )
    assert data(result)["compared"] == "outputs"
    other = converter.verify(a, (FlaxMLP(), flax_net(random_weights(2))), example_input())
    assert not other.ok and "the outputs of a (PyTorch) and b (Flax) differ beyond" in str(other)


def test_a_file_and_a_live_net(tmp_path: Path) -> None:
    path = saved(tmp_path, "torch")
    for a, b in ((path, flax_net(random_weights(1))), (flax_net(random_weights(1)), path)):
        result = converter.verify(a, b)
        assert isinstance(result, WeightComparison) and result.ok and str(path) in str(result)
    assert not converter.verify(path, TorchMLP()).ok
    with converter.open(path) as weights:
        assert converter.verify(weights, torch_net(random_weights(1))).ok
        assert converter.verify(torch_net(random_weights(1)), weights).ok


def test_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, certificate = saved(tmp_path, "torch"), tmp_path / "cert.json"
    converter.convert("torch->flax", path, tmp_path / "mlp.msgpack", certificate=certificate)
    result = converter.verify(certificate)
    assert isinstance(result, CertificateCheck) and result.ok
    assert "cert.json holds: mlp.params and mlp.msgpack are unchanged" in str(result)
    assert data(result)["compared"] == "certificate"
    assert ok(capsys, "verify", certificate) == f"{result}\n"
    assert json.loads(ok(capsys, "verify", certificate, "--json")) == data(result)
    SIDES["torch"].save(SIDES["torch"].make(random_weights(2)), path)
    changed = converter.verify(certificate)
    assert not changed.ok and "source: mlp.params was changed" in str(changed)
    assert run(capsys, "verify", certificate).code == 1


def test_options_pair_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, "torch")
    converter.convert("torch->flax", path, tmp_path / "out.msgpack", map={"output": "out"})
    assert converter.verify(path, tmp_path / "out.msgpack", map={"output": "out"}).ok
    assert ok(capsys, "verify", path, tmp_path / "out.msgpack", "--map", "output=out", "--from", "torch")
    with pytest.raises(converter.MatchError, match=r"map=\{'outptu': 'out'\}: the source has no layer 'outptu'"):
        converter.verify(path, tmp_path / "out.msgpack", map={"outptu": "out"})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rtol": 0.1}, "rtol=…: this is for two live nets that are run: give x, an input of theirs, too."),
    ({"x_b": np.ones(3)}, "x_b=…: this is for two live nets that are run"),
    ({"move_channels": False}, "move_channels=…: this is for two live nets that are run"),
    ({"x": np.ones((1, 20))}, "mlp.params is a file: leave x out."),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[next(iter(options)) for options, _ in REFUSED])
def test_what_two_files_cannot_use_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, "torch")
    with pytest.raises(converter.ConversionError) as error:
        converter.verify(path, path, **options)
    assert message in str(error.value)


def test_what_nets_and_certificates_cannot_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(20, 3))
    for options in ({"step": 3}, {"source_framework": "torch"}):
        with pytest.raises(converter.ConversionError, match="this is for files, and x for live nets"):
            converter.verify(net, net, np.ones((1, 20), np.float32), **options)
    for options in ({"schema": "mlp"}, {"x": 1}, {"rtol": 0.1}, {"source_framework": "torch"}):
        with pytest.raises(converter.ConversionError, match=r"a certificate alone takes no option"):
            converter.verify(tmp_path / "cert.json", **options)
    with pytest.raises(converter.ConversionError, match="a live net is compared with another one, or with a file"):
        converter.verify(net)
    said = refused(capsys, "verify", tmp_path / "cert.json", "--no-checksums", code=2)
    assert "a certificate alone takes no options but --json" in said
