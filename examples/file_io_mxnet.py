"""File I/O in MXNet (Dive into Deep Learning, 6.6), and the files of the three other frameworks in its clone."""

import tempfile
from pathlib import Path
from typing import Any

import converter.mxnet_numpy2  # isort: skip - MXNet 1.9.1 beside NumPy 2: before mxnet
from mxnet import np, npx
from mxnet.gluon import nn
from numpy.testing import assert_allclose

import converter

HERE = Path(__file__).parent
npx.set_np()


class MLP(nn.Block):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = nn.Dense(256, activation="relu")
        self.output = nn.Dense(10)

    def forward(self, x: Any) -> Any:
        return self.output(self.hidden(x))


def main() -> None:
    folder = Path(tempfile.mkdtemp())

    # Loading and saving tensors
    x = np.arange(4)
    npx.save(str(folder / "x-file"), x)
    assert (npx.load(str(folder / "x-file"))[0] == x).all()
    y = np.zeros(4)
    npx.save(str(folder / "x-files"), [x, y])
    x2, y2 = npx.load(str(folder / "x-files"))
    assert (x2 == x).all() and (y2 == y).all()
    npx.save(str(folder / "mydict"), {"x": x, "y": y})
    assert (npx.load(str(folder / "mydict"))["x"] == x).all()

    # The same files without MXNet: converter.read gives NumPy arrays
    assert converter.read(folder / "x-file")["0"].tolist() == [0, 1, 2, 3]
    assert converter.read(folder / "x-files")["1"].tolist() == [0, 0, 0, 0]
    assert converter.read(folder / "mydict")["x"].tolist() == [0, 1, 2, 3]

    # Loading and saving model parameters
    net = MLP()
    net.load_parameters(str(HERE / "mlp-mxnet.params"))
    X = np.random.uniform(size=(2, 20))
    Y = net(X)
    net.save_parameters(str(folder / "mlp.params"))
    clone = MLP()
    clone.load_parameters(str(folder / "mlp.params"))
    assert (clone(X) == Y).all()

    # The same net as the other frameworks saved it, in a clone of this one
    for file in ("mlp.params", "mlp.weights.h5", "mlp.msgpack"):
        clone = converter.load_into(MLP(), HERE / file, schema="mlp")
        assert_allclose(clone(X).asnumpy(), Y.asnumpy(), rtol=1e-6, atol=1e-6)
        print(f"{file}: Y_clone == Y")

    # ... or as a file that MXNet loads by itself
    converter.convert("torch->mxnet", HERE / "mlp.params", folder / "from_torch.params")
    clone = MLP()
    clone.load_parameters(str(folder / "from_torch.params"))
    assert (clone(X) == Y).all()


if __name__ == "__main__":
    main()
