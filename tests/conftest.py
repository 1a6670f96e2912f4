"""Before any test module imports a framework."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import converter.mxnet_numpy2  # noqa: F401 - MXNet 1.9.1 imports under NumPy 2 only after it
