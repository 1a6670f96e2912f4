"""A training that was stopped in PyTorch goes on in Flax: the chapter's MLP, its weights and its optimizer's state.

It is trained five epochs with AdamW, saved, carried over by `converter.convert` and trained on with optax, on the same
batches: beside the run that never stopped, and beside one that got the weights alone. The losses are drawn in
``training_goes_on.png``, in the folder where this runs.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax.training.train_state import TrainState
from torch import nn

import converter

EPOCHS, RATE, SIZE = 5, 0.01, 64
rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(4 * SIZE, 20)).astype(np.float32)
TARGETS = np.sin(INPUTS @ rng.normal(size=(20, 10))).astype(np.float32)
BATCHES = [(INPUTS[at : at + SIZE], TARGETS[at : at + SIZE]) for at in range(0, len(INPUTS), SIZE)]


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.output(torch.relu(self.hidden(x)))
        return y


class FlaxMLP(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any) -> Any:
        hidden = flax.linen.relu(flax.linen.Dense(256, name="hidden")(x))
        return flax.linen.Dense(10, name="output")(hidden)


class InTorch:
    def __init__(self) -> None:
        self.net = MLP()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=RATE)

    def step(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
        self.optimizer.zero_grad()
        loss = ((self.net(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self, path: Path) -> None:
        torch.save({"model": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}, path)


class InFlax:
    """state: from_bytes fills it from a file."""

    def __init__(self) -> None:
        params = FlaxMLP().init(jax.random.PRNGKey(0), jnp.zeros((1, 20)))["params"]
        # as the report of the conversion prints it ("go on with")
        optimizer = optax.adamw(learning_rate=RATE, b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)
        self.state = TrainState.create(apply_fn=FlaxMLP().apply, params=params, tx=optimizer)

    def load(self, path: Path) -> None:
        self.state = flax.serialization.from_bytes(self.state, path.read_bytes())

    def load_weights(self, path: Path) -> None:
        self.state = self.state.replace(params=flax.serialization.msgpack_restore(path.read_bytes())["params"])

    def step(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
        def error(params: Any) -> Any:
            return ((self.state.apply_fn({"params": params}, x) - y) ** 2).mean()

        loss, gradients = jax.value_and_grad(error)(self.state.params)
        self.state = self.state.apply_gradients(grads=gradients)
        return float(loss)


def train(step: Callable[[Any, Any], float]) -> list[float]:
    """The loss of each step of five epochs."""
    return [step(x, y) for _ in range(EPOCHS) for x, y in BATCHES]


def draw(before: list[float], runs: dict[str, list[float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(range(len(before)), before, color="gray", label="PyTorch, before")
    after = range(len(before), len(before) + len(before))
    for (name, losses), style in zip(runs.items(), ("-", "--", ":"), strict=True):
        axes.plot(after, losses, style, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig("training_goes_on.png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    stopped = InTorch()
    before = train(stopped.step)
    stopped.save(folder / "checkpoint.pt")
    converter.convert("torch->flax", folder / "checkpoint.pt", folder / "state.msgpack", training=True)

    carried, alone = InFlax(), InFlax()
    carried.load(folder / "state.msgpack")
    alone.load_weights(folder / "state.msgpack")
    runs = {
        "PyTorch, never stopped": train(stopped.step),
        "Flax, carried over": train(carried.step),
        "Flax, weights alone": train(alone.step),
    }
    draw(before, runs)
    truth, *others = (np.array(losses) for losses in runs.values())
    for name, losses in zip(list(runs)[1:], others, strict=True):
        print(f"{name}: the losses differ by {np.abs(losses - truth).max():.0e} at most")


if __name__ == "__main__":
    main()
