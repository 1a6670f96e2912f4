"""A PyTorch state_dict of dense layers into Keras .weights.h5, with both frameworks."""

from common import TARGET, load_torch

import keras  # isort: skip

state = load_torch()


class Blocks(keras.Model):
    """Just the layers: what they are called in does not matter to a file of weights."""

    def __init__(self):
        super().__init__()
        self.dense = []
        for name in [name for name in state if name.endswith("weight")]:
            weight, bias = state[name].numpy(), state[name.replace("weight", "bias")].numpy()
            layer = keras.layers.Dense(weight.shape[0], kernel_initializer="zeros")
            layer.build((None, weight.shape[1]))
            layer.set_weights([weight.T, bias])
            self.dense.append(layer)
        self.built = True


Blocks().save_weights(TARGET)
