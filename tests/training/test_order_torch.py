"""Which numbered slot of a PyTorch optimizer is whose: every trap is right, or asked about; none is swapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import pytest
import torch

from tests.command import ok, refused

Net = torch.nn.Sequential


class Square(torch.nn.Module):
    """Dense layers of one shape, with names whose alphabetical order is another one."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.second = torch.nn.Linear(4, 4)
        self.first = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.last = torch.nn.Linear(4, 3)
        if tied:
            self.first.weight = self.second.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.norm(self.first(torch.tanh(self.second(x)))))
        return result


def trained(net: torch.nn.Module, optimizer: Any, steps: int = 2) -> Any:
    torch.manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(torch.randn(6, 4)) ** 2).sum().backward()
        optimizer.step()
    return optimizer


def saved(net: torch.nn.Module, optimizer: Any, path: Path) -> Path:
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


def momenta(path: Path) -> dict[str, Any]:
    """Name in PyTorch -> the momentum in the flax file, in the axes of PyTorch."""
    state = flax.serialization.msgpack_restore(path.read_bytes())["opt_state"]
    tree = (state["1"] or state)["0"]["trace"]  # weight decay is chained before it
    words = {"kernel": "weight", "scale": "weight"}
    return {
        f"{layer}.{words.get(leaf, leaf)}": value.T if leaf == "kernel" else value
        for layer, leaves in tree.items()
        for leaf, value in leaves.items()
    }


def right(net: torch.nn.Module, optimizer: Any, path: Path) -> None:
    """Each parameter has its own momentum, seen by the object and not by any number."""
    found = momenta(path)
    names = {name: value for name, value in net.named_parameters() if value in optimizer.state}
    assert names
    for name, value in names.items():
        np.testing.assert_array_equal(found[name], optimizer.state[value]["momentum_buffer"].numpy(), err_msg=name)


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, 0.1, 0.9)


def carry(capsys: Any, tmp_path: Path, net: torch.nn.Module, optimizer: Any, *options: object) -> str:
    source = saved(net, optimizer, tmp_path / "net.pt")
    return ok(capsys, "torch->flax", source, "-o", tmp_path / "net.msgpack", "--training", *options)


def asked(capsys: Any, tmp_path: Path, net: torch.nn.Module, optimizer: Any, *options: object) -> str:
    source = saved(net, optimizer, tmp_path / "net.pt")
    said = refused(capsys, "torch->flax", source, "-o", tmp_path / "net.msgpack", "--training", *options)
    assert not (tmp_path / "net.msgpack").exists()
    return said


def test_all_parameters_in_the_order_of_the_net(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    optimizer = trained(net, sgd(net.parameters()))
    said = carry(capsys, tmp_path, net, optimizer)
    assert "likely at the source: the order of the net's definition" in said
    assert "'strict' refuses it" in said
    right(net, optimizer, tmp_path / "net.msgpack")


def test_strict_takes_no_likely_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    said = asked(capsys, tmp_path, net, trained(net, sgd(net.parameters())), "--strict")
    assert "nothing says which number is which" in said and "--parameter-order FILE" in said


def test_names_in_the_state_prove_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    optimizer = trained(net, sgd(reversed(list(net.named_parameters()))))
    assert "known at the source: the names in the state itself" in carry(capsys, tmp_path, net, optimizer, "--strict")
    right(net, optimizer, tmp_path / "net.msgpack")


def test_another_order_that_the_shapes_show_is_asked_about(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    optimizer = trained(net, sgd([*net.last.parameters(), *net.second.parameters(), *net.first.parameters()]))
    said = asked(capsys, tmp_path, net, optimizer)
    assert "does not fit the shapes" in said
    order = tmp_path / "order.txt"
    names = [f"{layer}.{leaf}" for layer in ("last", "second", "first") for leaf in ("weight", "bias")]
    order.write_text("\n".join(names))
    carry(capsys, tmp_path, net, optimizer, "--parameter-order", order)
    right(net, optimizer, tmp_path / "net.msgpack")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["last.weight"], "name 1 parameters, and the state has 6"),
        (["last.wieght"], "Did you mean 'last.weight'?"),
        (["last.weight"] * 6, "name 'last.weight' twice"),
        (
            ["first.weight", "first.bias", "second.weight", "second.bias", "last.weight", "last.bias"],
            "they are of another net, or in another order",
        ),
    ],
)
def test_a_wrong_list_of_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, names: list[str], message: str
) -> None:
    net = Square()
    optimizer = trained(net, sgd([*net.last.parameters(), *net.second.parameters(), *net.first.parameters()]))
    order = tmp_path / "order.txt"
    order.write_text("\n".join(["norm.weight", *names] if names == ["last.wieght"] else names))
    assert message in asked(capsys, tmp_path, net, optimizer, "--parameter-order", order)


def test_frozen_parameters_take_a_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    net.second.requires_grad_(False)
    optimizer = trained(net, sgd(net.parameters()))
    said = carry(capsys, tmp_path, net, optimizer)
    assert "starts anew: 'params/second/kernel', 'params/second/bias'" in said
    right(net, optimizer, tmp_path / "net.msgpack")
    assert not momenta(tmp_path / "net.msgpack")["second.weight"].any()


def test_frozen_parameters_that_were_left_out_are_asked_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net = Square()
    net.second.requires_grad_(False)
    said = asked(capsys, tmp_path, net, trained(net, sgd(p for p in net.parameters() if p.requires_grad)))
    assert "'second.weight', 'first.weight'" in said


def decayed(net: torch.nn.Module, is_matrix: bool) -> Iterable[Any]:
    return (value for value in net.parameters() if (value.ndim > 1) == is_matrix)


def test_groups_with_and_without_decay_number_anew(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square()
    groups = [{"params": decayed(net, True), "weight_decay": 0.1}, {"params": decayed(net, False)}]
    optimizer = trained(net, sgd(groups))
    said = carry(capsys, tmp_path, net, optimizer)
    right(net, optimizer, tmp_path / "net.msgpack")
    assert "optax.chain(optax.add_decayed_weights(0.1), optax.sgd(" in said
    assert "# 'norm.weight', 'norm.bias'" in said.replace("'second.bias', 'first.bias', ", "")


def test_groups_that_could_be_dealt_otherwise_are_asked_about(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net = Square()
    rest = [*net.first.parameters(), *net.norm.parameters(), *net.last.parameters()]
    optimizer = trained(net, sgd([{"params": net.second.parameters(), "lr": 0.2}, {"params": rest}]))
    assert "nothing says which number is which" in asked(capsys, tmp_path, net, optimizer)


def test_shapes_that_allow_one_order_prove_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    optimizer = trained(net, sgd(reversed(list(net.parameters()))))
    said = carry(capsys, tmp_path, net, optimizer, "--strict")
    assert "each parameter has a shape of its own" in said
    tree = flax.serialization.msgpack_restore((tmp_path / "net.msgpack").read_bytes())["opt_state"]["0"]["trace"]
    np.testing.assert_array_equal(tree["0"]["kernel"].T, optimizer.state[net[0].weight]["momentum_buffer"])


def test_tied_weights_take_one_number(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net = Square(tied=True)
    optimizer = trained(net, sgd(net.named_parameters()))
    said = asked(capsys, tmp_path, net, optimizer)
    assert "one tensor in the source and two in the target" in said


def test_a_state_of_other_shapes_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """PyTorch's own loader takes it without a word."""
    net, other = Square(), torch.nn.Linear(7, 7)
    optimizer = sgd(other.parameters())
    (other(torch.randn(2, 7)) ** 2).sum().backward()
    optimizer.step()
    assert "no parameter of the net is of that shape" in asked(capsys, tmp_path, net, optimizer)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["param_groups"][0].update(params=[0, 0]), "does not number its parameters"),
        (lambda state: state["state"].update({99: {}}), "does not number its parameters"),
        (lambda state: state["param_groups"][0].pop("momentum"), ""),
        (lambda state: state["param_groups"].clear(), "does not number its parameters"),
    ],
)
def test_a_damaged_state(capsys: pytest.CaptureFixture[str], tmp_path: Path, change: Change, message: str) -> None:
    net = Square()
    state = trained(net, sgd(net.parameters())).state_dict()
    change(state)
    torch.save({"model": net.state_dict(), "optimizer": state}, tmp_path / "net.pt")
    args = ("torch->flax", tmp_path / "net.pt", "-o", tmp_path / "net.msgpack", "--training")
    if message:
        assert message in refused(capsys, *args)
    else:
        assert "optax.sgd(learning_rate=0.1, nesterov=False)" in ok(capsys, *args)
