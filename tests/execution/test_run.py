"""The pipeline: the same bytes at any pace, little memory, and nothing left when it fails or is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import ml_dtypes
import numpy as np
import pytest
import torch
from flax.serialization import to_bytes

import converter
from converter.commands.convert import convert
from converter.core.ops import Op, Transpose
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError, FormatError
from converter.execution.jobs import Pace
from converter.execution.run import execute
from converter.formats import Contents, Reader
from converter.formats import by_name as format_named
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step

OUTPUTS = {
    "neutral": "x.safetensors",
    "mxnet": "x.params",
    "flax": "x.msgpack",
    "jax": "x.orbax",
    "tensorflow": "x.weights.h5",
    "tf": "x.ckpt",
    "keras": "x.npz",
    "torch": "x.legacy.pt",
}
#: name -> shape; some of a few bytes, some of more than a block, no two matrices alike.
SHAPES = {f"blocks.{i}.dense.weight": (700 + i, 1700 - i) for i in range(6)} | {
    f"blocks.{i}.dense.bias": (700 + i,) for i in range(6)
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("source") / "source.pt"
    torch.save({name: torch.randn(shape) for name, shape in SHAPES.items()}, path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    """Every file that stands at the path, below it, or beside it under its name."""
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


@pytest.mark.parametrize(("target", "name"), OUTPUTS.items())
def test_the_pace_does_not_change_a_byte(source: Path, tmp_path: Path, target: str, name: str) -> None:
    results = []
    for workers, memory in ((1, None), (2, None), (5, "1GB"), (5, 1)):
        folder = tmp_path / f"{workers}-{memory}"
        folder.mkdir()
        convert(f"torch->{target}", source, folder / name, workers=workers, memory=memory)
        results.append(contents(folder / name))
    assert results[0] and all(result == results[0] for result in results)


def test_the_values_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    report = convert("torch->flax", source, tmp_path / "x.msgpack", workers=4)
    state = torch.load(source, weights_only=True)
    with converter.read(tmp_path / "x.msgpack") as written:
        for step in report.plan.steps:
            np.testing.assert_array_equal(written[step.target.name], state[step.sources[0].name].numpy().T)
    assert len(report.plan.steps) == len(SHAPES)


@pytest.mark.parametrize(("target", "name"), OUTPUTS.items())
def test_what_is_not_aligned_in_the_source_is_moved_as_it_is(tmp_path: Path, target: str, name: str) -> None:
    """msgpack aligns nothing; only whoever asks for an array gets an aligned copy."""
    rng = np.random.default_rng(4)
    dtypes = [np.float32, np.float64, np.float16, np.float32 if target == "mxnet" else ml_dtypes.bfloat16]
    params = {
        "d" * (1 + i): {"kernel": rng.random((600 + i, 900)).astype(dtype), "bias": rng.random(900).astype(dtype)}
        for i, dtype in enumerate(dtypes * 2)
    }
    (tmp_path / "source.msgpack").write_bytes(to_bytes({"params": params}))
    report = convert(f"flax->{target}", tmp_path / "source.msgpack", tmp_path / name)
    with converter.read(tmp_path / "source.msgpack") as source, converter.read(tmp_path / name) as written:
        specs = source.contents.specs
        assert sum(not source.reader.raw(spec.name).flags.aligned for spec in specs) > 4
        assert all(source[spec.name].flags.aligned for spec in specs)
        for step in report.plan.steps:
            _, layer, leaf = step.sources[0].name.split("/")
            expected = params[layer][leaf]
            found = written[step.target.name]
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected.T if found.shape != expected.shape else expected)
    assert len(report.plan.steps) == 2 * len(params)


# -- a reader of our own ---------------------------------------------------------------------------------------------


class FakeReader(Reader):
    """Arrays from memory. Counts the reads, and the bytes that are held at a time."""

    parallel = True

    def __init__(self, arrays: dict[str, Array], broken: str = "", pause: float = 0) -> None:
        super().__init__(Path("fake"))
        self.arrays, self.broken, self.pause = arrays, broken, pause
        self.reads: list[str] = []
        self.held = self.most = 0
        self.lock = Lock()

    @property
    def contents(self) -> Contents:
        return Contents(tuple(TensorSpec(name, array.shape, array.dtype) for name, array in self.arrays.items()))

    def read(self, name: str) -> Array:
        if name == self.broken:
            raise FormatError(self.path, f"'{name}' is damaged")
        with self.lock:
            self.reads.append(name)
            self.held += self.arrays[name].nbytes
            self.most = max(self.most, self.held)
        time.sleep(self.pause)
        return self.arrays[name].view(_Told).told(self)


class _Told(np.ndarray):  # type: ignore[type-arg]
    """Tells its reader when it is freed."""

    reader: FakeReader | None = None

    def told(self, reader: FakeReader) -> _Told:
        self.reader = reader
        return self

    def __del__(self) -> None:
        if self.reader is not None:
            with self.reader.lock:
                self.reader.held -= self.nbytes


class Row(Op, frozen=True):
    """One row of a matrix: what splitting a fused tensor comes to."""

    row: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(spec.name, spec.shape[1:], spec.dtype) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(np.asarray(array)[self.row] for array in arrays)

    def inverse(self) -> Op:
        raise AssertionError

    def __str__(self) -> str:
        return "a row"


def step(target: str, sources: Sequence[TensorSpec], *ops: Op) -> Step:
    result = tuple(sources)
    for op in ops:
        result = op.infer(result)
    return Step("layer", "linear", tuple(sources), ops, TensorSpec(target, result[0].shape, result[0].dtype), "test")


def plan(*steps: Step) -> TensorPlan:
    return TensorPlan(steps, Contents(tuple(step.target for step in steps)))


def run(reader: FakeReader, steps: Sequence[Step], path: Path, **pace: int) -> None:
    execute(plan(*steps), reader, format_named("safetensors"), path, pace=Pace(**pace))


def matrices(count: int, side: int = 600) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {f"m{index}": rng.random((side, side + index)) for index in range(count)}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_of_several_targets_is_read_once(tmp_path: Path, workers: int) -> None:
    reader = FakeReader({"qkv": np.random.default_rng(0).random((3, 500, 700)), **matrices(4)})
    fused, *others = reader.contents.specs
    steps = [step("q", [fused], Row(0)), *(step(spec.name, [spec]) for spec in others)]
    steps += [step("k", [fused], Row(1)), step("v", [fused], Row(2), Transpose((1, 0)))]
    run(reader, steps, tmp_path / "x.safetensors", workers=workers)
    assert sorted(reader.reads) == sorted(reader.arrays)
    with converter.read(tmp_path / "x.safetensors") as written:
        np.testing.assert_array_equal(written["k"], reader.arrays["qkv"][1])
        np.testing.assert_array_equal(written["v"], reader.arrays["qkv"][2].T)
    assert reader.held == 0


def test_no_more_is_held_than_the_budget(tmp_path: Path) -> None:
    reader = FakeReader(matrices(12), pause=0.02)
    largest = max(array.nbytes for array in reader.arrays.values())
    steps = [step(spec.name, [spec]) for spec in reader.contents.specs]
    run(reader, steps, tmp_path / "x.safetensors", workers=6, memory=3 * largest)
    assert 2 * largest < reader.most <= 3 * largest  # more than one at a time, and never more than allowed
    assert sorted(reader.reads) == sorted(reader.arrays)


def test_a_tensor_beyond_the_budget_goes_alone(tmp_path: Path) -> None:
    reader = FakeReader({**matrices(4), "large": np.random.default_rng(1).random((2000, 2000))}, pause=0.02)
    specs = sorted(reader.contents.specs, key=lambda spec: spec.name)
    steps = [step(spec.name, [spec]) for spec in specs]
    run(reader, steps, tmp_path / "x.safetensors", workers=4, memory=16 << 20)
    assert reader.most == reader.arrays["large"].nbytes


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_in_a_thread_is_the_users_error_and_leaves_nothing(tmp_path: Path, workers: int) -> None:
    reader = FakeReader(matrices(9), broken="m5", pause=0.01)
    steps = [step(spec.name, [spec]) for spec in reader.contents.specs]
    with pytest.raises(ConversionError, match="'m5' is damaged"):
        run(reader, steps, tmp_path / "x.safetensors", workers=workers, memory=1 << 30)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_with_all(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert("torch->flax", source, tmp_path / "x.msgpack", workers=3, progress=lambda *call: seen.append(call))
    total = sum(4 * int(np.prod(shape)) for shape in SHAPES.values())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


def test_no_workers_are_too_few(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="workers=0: expected an integer of at least 1"):
        convert("torch->flax", source, tmp_path / "x.msgpack", workers=0)


# -- in a process of its own -----------------------------------------------------------------------------------------

PEAK = """
    import sys
    from converter.commands.convert import convert
    convert(sys.argv[1], sys.argv[2], sys.argv[3])
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.parametrize("output", ["x.msgpack", "x.orbax"])  # for the other writers see tests/formats/test_lazy.py
def test_peak_memory_is_that_of_two_tensors(tmp_path: Path, output: str) -> None:
    """All resident pages count, those of the mapped source too."""
    largest = 12 << 20
    path = tmp_path / "source.pt"
    base = torch.randn(2048, largest // 2048 // 4)
    state = {f"blocks.{index}.dense.weight": base + index for index in range(20)}
    torch.save(state | {name.replace("weight", "bias"): torch.randn(2048) for name in state}, path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), "torch->flax", str(path), str(tmp_path / output)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert path.stat().st_size >= 20 * largest
    assert int(done.stdout) << 10 <= (150 << 20) + 2 * largest


def test_peak_memory_of_a_source_that_has_to_be_copied(tmp_path: Path) -> None:
    """Flax msgpack does not align its arrays."""
    largest = 12 << 20
    path = tmp_path / "source.msgpack"
    kernel = np.random.default_rng(0).random((2048, largest // 2048 // 4), np.float32)
    layers = {f"dense_{index}": {"kernel": kernel + index, "bias": kernel[0]} for index in range(20)}
    path.write_bytes(to_bytes({"params": layers}))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PEAK), "flax->torch", str(path), str(tmp_path / "x.pt")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) << 10 <= (150 << 20) + 2 * largest


#: The command line, where reading takes long enough to be interrupted.
SLOW = """
    import signal, sys, time
    from converter import cli
    from converter.execution import jobs
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    transformed = jobs._transformed
    def slowly(*args):
        time.sleep(0.1)
        return transformed(*args)
    jobs._transformed = slowly
    sys.argv[0] = "convert"
    cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("output", ["x.msgpack", "x.ckpt", "x.orbax", "x.weights.h5"])
def test_ctrl_c_leaves_nothing_behind(source: Path, tmp_path: Path, output: str) -> None:
    framework = "flax" if output in ("x.msgpack", "x.orbax") else "tf"
    command = [sys.executable, "-c", textwrap.dedent(SLOW), f"torch->{framework}", str(source)]
    child = subprocess.Popen(
        [*command, "-o", str(tmp_path / output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.iterdir()):
        assert time.monotonic() < deadline and child.poll() is None, child.communicate()
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    printed, said = child.communicate(timeout=120)
    assert (child.returncode, printed, said) == (130, "", "interrupted; there is no output\n")
    assert list(tmp_path.iterdir()) == []


# -- going on ---------------------------------------------------------------------------------------------------------


def killed_after_shards(source: Path, output: Path) -> Path:
    """Start it, and kill it when two shards are complete. The folder where they wait."""
    options = ["--max-shard-size", "9MB", "--resume", "--workers", "1", "-o", str(output)]
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SLOW), "torch->neutral", str(source), *options])
    kept = output.with_name(f".{output.name}.resume")
    deadline = time.monotonic() + 120
    while len(list(kept.glob("*.safetensors"))) < 2:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not output.exists() and not list(output.parent.glob("*.safetensors"))
    return kept


def test_killed_and_resumed_only_the_rest_is_written(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors.index.json"
    kept = killed_after_shards(source, output)
    before = {file.name: file.stat().st_ino for file in kept.glob("*.safetensors")}
    seen: list[tuple[int, int]] = []
    progress = lambda *call: seen.append(call)  # noqa: E731
    convert("torch->neutral", source, output, max_shard_size="9MB", resume=True, progress=progress)
    after = {file.name: file.stat().st_ino for file in tmp_path.glob("*.safetensors")}
    assert 2 <= len(before) < len(after) and before.items() <= after.items()
    assert seen[-1][1] < sum(4 * int(np.prod(shape)) for shape in SHAPES.values())
    assert not kept.exists()

    whole = tmp_path / "whole" / "x.safetensors.index.json"
    whole.parent.mkdir()
    convert("torch->neutral", source, whole, max_shard_size="9MB")
    resumed = {name: data for name, data in contents(output).items() if not name.startswith("whole")}
    assert resumed == contents(whole)


def test_shards_of_other_work_are_not_used(source: Path, tmp_path: Path) -> None:
    state = torch.load(source, weights_only=True)
    changed = tmp_path / "changed.pt"
    torch.save(state, changed)
    output = tmp_path / "x.safetensors.index.json"
    killed_after_shards(changed, output)
    torch.save({name: tensor + 1 for name, tensor in state.items()}, changed)
    report = convert("torch->neutral", changed, output, max_shard_size="9MB", resume=True)
    with converter.read(output) as written:
        for step in report.plan.steps:
            np.testing.assert_array_equal(written[step.target.name], state[step.sources[0].name].numpy() + 1)


def test_an_error_keeps_complete_shards_only_for_resume(tmp_path: Path) -> None:
    reader = FakeReader(matrices(6), broken="m4")
    steps = [step(spec.name, [spec]) for spec in reader.contents.specs]
    reader.path = tmp_path / "source"
    for resume, left in ((False, []), (True, [".x.safetensors.index.json.resume"])):
        with pytest.raises(ConversionError, match="'m4' is damaged"):
            form, output = format_named("safetensors-sharded"), tmp_path / "x.safetensors.index.json"
            execute(plan(*steps), reader, form, output, 3_000_000, Pace(workers=1), resume=resume)
        assert [item.name for item in tmp_path.iterdir()] == left
    assert len(list((tmp_path / left[0]).glob("*.safetensors"))) == 4


def test_one_file_cannot_be_resumed(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"only shards can be resumed\. Say max_shard_size='5GB'"):
        convert("torch->flax", source, tmp_path / "x.msgpack", resume=True)
