"""A PyTorch state_dict into MXNet .params, with both frameworks."""

from common import TARGET, load_torch

import converter.mxnet_numpy2  # noqa: F401 - MXNet 1.9.1 cannot be imported beside NumPy 2 without it

import mxnet as mx  # isort: skip

mx.nd.save(TARGET, {name: mx.nd.array(tensor.numpy(), dtype="float32") for name, tensor in load_torch().items()})
