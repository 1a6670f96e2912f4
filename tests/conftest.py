"""Before any test module imports a framework; and which tests go into one process."""

import gc
import os
import sys

import hypothesis
import pytest

from tests.places import ROOT
from tests.sample import durations, is_in

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What jax compiled is kept on disk, for the other process and for later: most of its time goes into compiling.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# What jax compiles here runs once, on small arrays.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

# a busy machine is no failure
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

import converter.mxnet_numpy2  # noqa: E402, F401 - MXNet 1.9.1 imports under NumPy 2 only after it

#: Folders of tests, the quick ones first: a mistake shows soon.
ORDER = (
    "core schema planning training reports matching flattening frameworks formats fixtures cli commands attacks fuzz "
    "execution live architectures parity book"
).split()


def group(item: pytest.Item) -> str:
    """Tests of one group run in one process, one after the other: those of a file, if nothing else is said."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0] if mark else item.path.relative_to(ROOT))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample", type=int, metavar="N", help="The quick tests, and of the slow ones some: see sample.py."
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    sample = config.getoption("--sample")
    return sample and f"sample {sample} of the slow tests (`make test SAMPLE={sample}`); all of them: `make test-all`"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    sample = config.getoption("--sample")
    if sample is not None:
        seconds = durations()
        left_out = {item for item in items if not is_in(item, sample, seconds)}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    folders = {name: place for place, name in enumerate(ORDER)}
    items.sort(key=lambda item: folders.get(item.path.relative_to(ROOT).parts[1], -1))


def pytest_collection_finish() -> None:
    """What the frameworks made on import stays, and no collection need look at it: one takes a second otherwise."""
    gc.freeze()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What jax compiled for one group is of no use to the next; without this a process grew to 9 GB."""
    if "jax" in sys.modules and (nextitem is None or group(item) != group(nextitem)):
        sys.modules["jax"].clear_caches()
        gc.collect()
