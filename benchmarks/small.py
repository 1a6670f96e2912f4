"""The small MLP, whole process: this program beside a script by hand that imports both frameworks.

    python benchmarks/small.py [RUNS]

The commands are run in turn; the figures are medians, and the ratio is taken run by run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "examples" / "mlp.params"
SCRIPT = Path(sys.executable).with_name("convert")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(runs: int) -> dict[str, list[float]]:
    """Seconds of each run of each command, taken in turn, after one run of each that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        ours, hand = f"{folder}/ours.msgpack", f"{folder}/hand.msgpack"
        commands = {
            "convert --help": [str(SCRIPT), "--help"],
            "convert 'torch->flax' mlp.params": [*map(str, (SCRIPT, "torch->flax", SOURCE, "-o", ours)), "--force"],
            "by hand, importing torch and flax": [
                sys.executable,
                str(HERE / "by_hand" / "small.py"),
                str(SOURCE),
                hand,
            ],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(runs + 1):
            for name, command in commands.items():
                taken = seconds(command)
                if number:
                    times[name].append(taken)
        assert Path(ours).read_bytes() == Path(hand).read_bytes(), "the two results differ"
    return times


def main() -> None:
    times = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
    print("| whole process | median s | min | max |\n|---|---|---|---|")
    for name, taken in times.items():
        print(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} | {max(taken):.2f} |")
    _, ours, hand = times.values()
    print(
        f"\n{statistics.median(b / a for a, b in zip(ours, hand, strict=True)):.1f} times faster, with the same bytes"
    )


if __name__ == "__main__":
    main()
