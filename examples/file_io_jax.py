"""File I/O in JAX (Dive into Deep Learning, 6.6), and the files of the three other frameworks in its clone."""

import tempfile
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
from flax.training import checkpoints

import converter

HERE = Path(__file__).parent


class MLP(nn.Module):
    def setup(self) -> None:
        self.hidden = nn.Dense(256)
        self.output = nn.Dense(10)

    def __call__(self, x: Any) -> Any:
        return self.output(nn.relu(self.hidden(x)))


def main() -> None:
    folder = Path(tempfile.mkdtemp())

    # Loading and saving tensors
    x = jnp.arange(4)
    jnp.save(folder / "x-file.npy", x)
    assert jnp.array_equal(jnp.load(folder / "x-file.npy", allow_pickle=True), x)
    y = jnp.zeros(4)
    jnp.save(folder / "xy-files.npy", [x, y])
    x2, y2 = jnp.load(folder / "xy-files.npy", allow_pickle=True)
    assert jnp.array_equal(x2, x) and jnp.array_equal(y2, y)
    np.save(folder / "mydict.npy", {"x": x, "y": y})
    assert jnp.array_equal(np.load(folder / "mydict.npy", allow_pickle=True).item()["x"], x)

    # The same files without JAX, and without running the pickle inside of them
    assert converter.read(folder / "x-file.npy")["0"].tolist() == [0, 1, 2, 3]
    assert converter.read(folder / "mydict.npy")["x"].tolist() == [0, 1, 2, 3]

    # Loading and saving model parameters
    net = MLP()
    fresh = net.init(jax.random.PRNGKey(1), jnp.zeros((2, 20)))
    params = flax.serialization.from_bytes(fresh, (HERE / "mlp.msgpack").read_bytes())
    X = jax.random.normal(jax.random.PRNGKey(0), (2, 20))
    Y = net.apply(params, X)
    checkpoints.save_checkpoint(folder / "ckpt_dir", params, step=1, overwrite=True)
    cloned_params = checkpoints.restore_checkpoint(folder / "ckpt_dir", fresh)
    assert jnp.array_equal(net.apply(cloned_params, X), Y)

    # The same net as the other frameworks saved it, in a clone of this one
    for file in ("mlp.params", "mlp.weights.h5", "mlp-mxnet.params"):
        cloned_params = converter.load_into(fresh, HERE / file, schema="mlp")
        np.testing.assert_allclose(net.apply(cloned_params, X), Y, rtol=1e-6, atol=1e-6)
        print(f"{file}: Y_clone == Y")

    # ... or as a file that Flax loads by itself; its own checkpoint folder can be read, too
    converter.convert("torch->flax", HERE / "mlp.params", folder / "from_torch.msgpack")
    cloned_params = flax.serialization.from_bytes(fresh, (folder / "from_torch.msgpack").read_bytes())
    assert jnp.array_equal(net.apply(cloned_params, X), Y)
    cloned_params = converter.load_into(fresh, folder / "ckpt_dir")
    assert jnp.array_equal(net.apply(cloned_params, X), Y)


if __name__ == "__main__":
    main()
