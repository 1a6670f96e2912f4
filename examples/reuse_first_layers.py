"""Exercise 2 of File I/O (Dive into Deep Learning, 6.6): the first two layers of a net in another architecture.

The old net is the chapter's MLP as PyTorch saved it; the new ones are a PyTorch net, live, and a Flax net in a file.
"""

import tempfile
from pathlib import Path
from typing import Any

import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

import converter

HERE = Path(__file__).parent
OLD = HERE / "mlp.params"


class Deeper(nn.Module):
    """The chapter's two layers, and two more behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)
        self.more = nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.output(torch.relu(self.hidden(x))))
        return self.head(torch.relu(self.more(x)))


class FlaxDeeper(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any) -> Any:
        for name, size in (("hidden", 256), ("output", 10), ("more", 6)):
            x = flax.linen.relu(flax.linen.Dense(size, name=name)(x))
        return flax.linen.Dense(3, name="head")(x)


def into_a_live_net() -> None:
    net = Deeper()
    report = converter.reuse(OLD, into=net, first=2)
    converter.freeze(net, report)
    print("PyTorch, to freeze:", ", ".join(report.freeze))

    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    nn.functional.mse_loss(net(torch.randn(8, 20)), torch.randn(8, 3)).backward()
    optimizer.step()
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    print("PyTorch, trained:", ", ".join(changed))


def into_a_file(folder: Path) -> None:
    net = FlaxDeeper()
    fresh = net.init(jax.random.PRNGKey(0), jnp.zeros((2, 20)))
    (folder / "new.msgpack").write_bytes(flax.serialization.to_bytes(fresh))
    report = converter.reuse(OLD, folder / "new.msgpack", first=2, output=folder / "merged.msgpack")
    params = flax.serialization.from_bytes(fresh, (folder / "merged.msgpack").read_bytes())

    labels = converter.freeze(params, report)  # True: trained
    optimizer = optax.multi_transform({True: optax.sgd(0.1), False: optax.set_to_zero()}, labels)
    X, Y = jax.random.normal(jax.random.PRNGKey(1), (8, 20)), jax.random.normal(jax.random.PRNGKey(2), (8, 3))
    gradient = jax.grad(lambda p: jnp.mean((net.apply(p, X) - Y) ** 2))(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    trained = optax.apply_updates(params, updates)
    old = torch.load(OLD)
    for name in ("hidden", "output"):
        assert np.array_equal(trained["params"][name]["kernel"], old[f"{name}.weight"].numpy().T)
    changed = [
        name
        for name in params["params"]
        if not np.array_equal(trained["params"][name]["kernel"], params["params"][name]["kernel"])
    ]
    print("Flax, trained:", ", ".join(sorted(changed)))


def main() -> None:
    torch.manual_seed(0)
    into_a_live_net()
    into_a_file(Path(tempfile.mkdtemp()))


if __name__ == "__main__":
    main()
