"""One fuzzer for every reader: `python -m tests.fuzz.harness 20` tries each for 20 s and writes docs/fuzz.md.

Each reader is tried in a process of its own, with a limit of memory and a watch on the time of each input. Before an
input is read it lies in a folder, so that it can be looked at when the process dies of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from converter.errors import FormatError, MissingLibraryError
from converter.formats import Reader, ReadOptions, by_name, open_reader
from converter.formats.base import Probe
from tests.fuzz.damage import damaged_files
from tests.fuzz.seeds import EVERY_ROW, seeds_of, write_files

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fuzz.md"
KEPT = ROOT / "build" / "fuzz"
HANG_SECONDS = 10
PEAK_MB = 500
LIMIT_BYTES = 2 << 30
HEAD = """# Fuzzing

Written by `make fuzz` (`FUZZ_SECONDS=600 make fuzz` goes on for that long with each reader). Real small files are
damaged (bits flipped, lengths made extreme, bytes removed, repeated and mixed, ends cut off; inside archives also with
the CRC made right again) and read. Each must end in data or in an error that names the file. `other` counts all else:
another exception, a crash, more than 10 s. The peak is that of the whole process, the interpreter with it.

| reader | inputs tried | data | errors | other | slowest, s | peak, MB |
|---|--:|--:|--:|--:|--:|--:|
"""


@dataclass
class Outcome:
    """What came of the inputs of one reader; ``other`` says what went wrong, input by input."""

    row: str
    tried: int = 0
    data: int = 0
    errors: int = 0
    other: int = 0
    slowest: float = 0.0
    peak_mb: int = 0
    failure: str = ""


def fuzz(row: str, seconds: float, tries: int = 0, seed: int = 0) -> Outcome:
    """At least so long and so many, in a child process."""
    command = [sys.executable, "-m", "tests.fuzz.harness", "--child", row, str(seconds), str(tries), str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.run([*command, folder], cwd=ROOT, capture_output=True, text=True, check=False)
        if child.returncode == 0:
            return Outcome(**json.loads(child.stdout.splitlines()[-1]))
        shutil.copytree(folder, KEPT / row / "died", dirs_exist_ok=True)
        reason = f"died with {child.returncode}: {child.stderr[-2000:]}"
        return Outcome(row, tried=1, other=1, failure=reason)


def run_here(row: str, seconds: float, tries: int, seed: int, folder: Path) -> Outcome:
    """All inputs of one reader in this process."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    warnings.simplefilter("ignore")
    seeds = seeds_of(by_name(row))
    others = [data for item in seeds for data in item.files.values()]
    rng, outcome = random.Random(f"{row} {seed}"), Outcome(row)
    end = time.monotonic() + seconds
    while outcome.tried < tries or time.monotonic() < end:
        chosen = rng.choice(seeds)
        case = folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        write_files(case, damaged_files(chosen.files, others, rng))
        _try(row, case / chosen.entry, rng, outcome)
        if [entry.name for entry in folder.iterdir()] != ["case"]:
            raise AssertionError(f"{row}: wrote outside of its own folder")
    outcome.peak_mb = _peak_mb()
    return outcome


def _try(row: str, path: Path, rng: random.Random, outcome: Outcome) -> None:
    start = time.monotonic()
    outcome.tried += 1
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        _read(row, path, ReadOptions(verify=rng.random() < 0.5), directly=rng.random() < 0.3)
        outcome.data += 1
    except (FormatError, MissingLibraryError) as error:
        assert str(path.parent if path.name != "case" else path) in str(error), f"names no file: {error}"
        outcome.errors += 1
    except Exception as error:
        outcome.other += 1
        place = KEPT / row / str(outcome.tried)
        shutil.copytree(path.parent if path.name != "case" else path, place, dirs_exist_ok=True)
        outcome.failure = f"{type(error).__name__}: {error} ({place.relative_to(ROOT)})"
    faulthandler.cancel_dump_traceback_later()
    outcome.slowest = max(outcome.slowest, time.monotonic() - start)


def _read(row: str, path: Path, options: ReadOptions, directly: bool) -> None:
    """By content, or by the format's own reader whatever the content says."""
    reader: Reader
    if directly:
        module = by_name(row).load()
        module.detect(Probe(path))
        reader = module.FileReader(path, options)
    else:
        _, reader = open_reader(path, options)
    with reader:
        for spec in reader.contents.specs:
            array = reader.read(spec.name)
            assert array.shape == spec.shape and array.dtype == spec.dtype and not array.flags.writeable, spec


def _peak_mb() -> int:
    """Most memory that the process ever had (VmHWM; ru_maxrss would count the parent's before exec)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


def page(outcomes: list[Outcome]) -> str:
    total = Outcome("all")
    for outcome in outcomes:
        for count in ("tried", "data", "errors", "other"):
            setattr(total, count, getattr(total, count) + getattr(outcome, count))
        total.slowest = max(total.slowest, outcome.slowest)
        total.peak_mb = max(total.peak_mb, outcome.peak_mb)
    return HEAD + "".join(map(_line, [*outcomes, total]))


def _line(o: Outcome) -> str:
    return f"| `{o.row}` | {o.tried} | {o.data} | {o.errors} | {o.other} | {o.slowest:.3f} | {o.peak_mb} |\n"


def main(arguments: list[str]) -> int:
    if arguments[0] == "--child":
        row, seconds, tries, seed, folder = arguments[1:]
        print(json.dumps(asdict(run_here(row, float(seconds), int(tries), int(seed), Path(folder)))))
        return 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda row: fuzz(row, float(arguments[0]), seed=int(time.time())), EVERY_ROW))
    print(*outcomes, sep="\n")
    PAGE.write_text(page(outcomes))
    return int(any(outcome.other or outcome.peak_mb > PEAK_MB for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
