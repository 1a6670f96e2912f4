"""Take the picture of a page for docs/pairing.md (`python tools/screenshot.py`); needs the program `chromium`.

python tools/screenshot.py FOLDER: also how it looks on a phone, and where something is asked.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import converter
from tests.cli.test_cli import write

PICTURE = Path(__file__).parent.parent / "docs" / "page.png"
SIZE = 64
#: Of a block: what two authors call a layer, and the sizes of its outputs and inputs; without inputs it is a norm.
BLOCK: tuple[tuple[str, str, int, int], ...] = (
    ("ln_1", "norm1", SIZE, 0),
    *((f"attn.{one[0]}_proj", f"attention/{one}", SIZE, SIZE) for one in ("query", "key", "value", "output")),
    ("ln_2", "norm2", SIZE, 0),
    ("mlp.up", "fc1", 4 * SIZE, SIZE),
    ("mlp.down", "fc2", SIZE, 4 * SIZE),
)
OUTSIDE = (("norm", "norm", SIZE, 0), ("head", "head", 1000, SIZE), ("old_head", "", 7, SIZE), ("", "pooler", 32, SIZE))


def nets(folder: Path) -> tuple[Path, Path]:
    """A net in PyTorch, and a clone in Flax by another author."""
    rows = [(f"layers.{i}.{ours}", f"block_{i}/{theirs}", of, to) for i in range(4) for ours, theirs, of, to in BLOCK]
    source: dict[str, tuple[int, ...]] = {}
    clone: dict[str, tuple[int, ...]] = {}
    for ours, theirs, outputs, inputs in (*rows, *OUTSIDE):
        if ours:
            source |= {f"{ours}.weight": (outputs, inputs) if inputs else (outputs,), f"{ours}.bias": (outputs,)}
        if theirs:
            kernel = {"kernel": (inputs, outputs)} if inputs else {"scale": (outputs,)}
            clone |= {f"params/{theirs}/{name}": shape for name, shape in (*kernel.items(), ("bias", (outputs,)))}
    return _written(folder / "gpt.pt", "torch", source), _written(folder / "fresh.msgpack", "flax-msgpack", clone)


def _written(path: Path, form: str, shapes: dict[str, tuple[int, ...]]) -> Path:
    rng = np.random.default_rng(0)
    return write(path, form, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def take(page: Path, picture: Path, width: int, height: int) -> None:
    """In a frame, for a window of Chromium has a least width."""
    frame = page.with_name("frame.html")
    style = f"border: 0; width: {width}px; height: {height}px"
    frame.write_text(f"<body style='margin: 0'><iframe src='{page.name}' style='{style}'></iframe>")
    window = ("--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}")
    command = ["chromium", *window, f"--screenshot={picture}", frame.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main(folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        source, clone = (file.relative_to(place) for file in nets(Path(place)))
        converter.convert(
            "torch->flax",
            source,
            "gpt.msgpack",
            like=clone,
            report="page.html",
            ignore="old_head",
            allow_missing="pooler",
        )
        take(Path(place, "page.html"), PICTURE, 1280, 720)
        if folder is not None:
            take(Path(place, "page.html"), folder / "phone.png", 390, 844)
            with contextlib.suppress(converter.MatchError):
                converter.convert("torch->flax", source, "b.msgpack", like=clone, report="asked.html")
            take(Path(place, "asked.html"), folder / "asked.png", 1280, 900)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
