"""A PyTorch state_dict of dense layers into a TensorFlow checkpoint, with both frameworks."""

import tensorflow as tf
from common import TARGET, as_flax, load_torch, nested


def variables(tree):
    return {name: variables(item) if isinstance(item, dict) else tf.Variable(item) for name, item in tree.items()}


tf.train.Checkpoint(**variables(nested(as_flax(load_torch())))).write(TARGET)
