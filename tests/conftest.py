"""Before any test module imports a framework."""

import gc
import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# a busy machine is no failure
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

import converter.mxnet_numpy2  # noqa: E402, F401 - MXNet 1.9.1 imports under NumPy 2 only after it


@pytest.fixture(autouse=True, scope="module")
def _compiled_code_is_let_go() -> Iterator[None]:
    """What jax compiled for one module is of no use to the next; without this a process grew to 9 GB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
