"""File I/O in PyTorch (Dive into Deep Learning, 6.6), and the files of the three other frameworks in its clone."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import converter

HERE = Path(__file__).parent


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(x)))


def main() -> None:
    folder = Path(tempfile.mkdtemp())

    # Loading and saving tensors
    x = torch.arange(4)
    torch.save(x, folder / "x-file")
    assert torch.equal(torch.load(folder / "x-file"), x)
    y = torch.zeros(4)
    torch.save([x, y], folder / "x-files")
    x2, y2 = torch.load(folder / "x-files")
    assert torch.equal(x2, x) and torch.equal(y2, y)
    torch.save({"x": x, "y": y}, folder / "mydict")
    assert torch.equal(torch.load(folder / "mydict")["x"], x)

    # The same files without PyTorch: converter.read gives NumPy arrays
    assert converter.read(folder / "x-file")["0"].tolist() == [0, 1, 2, 3]
    assert converter.read(folder / "x-files")["1"].tolist() == [0, 0, 0, 0]
    assert converter.read(folder / "mydict")["x"].tolist() == [0, 1, 2, 3]

    # Loading and saving model parameters
    net = MLP()
    net.load_state_dict(torch.load(HERE / "mlp.params"))
    X = torch.randn(2, 20)
    Y = net(X)
    torch.save(net.state_dict(), folder / "mlp.params")
    clone = MLP()
    clone.load_state_dict(torch.load(folder / "mlp.params"))
    clone.eval()
    assert torch.equal(clone(X), Y)

    # The same net as the other frameworks saved it, in a clone of this one
    for file in ("mlp.weights.h5", "mlp.msgpack", "mlp-mxnet.params"):
        clone = converter.load_into(MLP(), HERE / file, schema="mlp")
        torch.testing.assert_close(clone(X), Y, rtol=1e-6, atol=1e-6)
        print(f"{file}: Y_clone == Y")

    # ... or as a file that PyTorch loads by itself
    converter.convert("flax->torch", HERE / "mlp.msgpack", folder / "from_flax.pt")
    clone.load_state_dict(torch.load(folder / "from_flax.pt", weights_only=True), strict=True)
    assert torch.equal(clone(X), Y)


if __name__ == "__main__":
    main()
