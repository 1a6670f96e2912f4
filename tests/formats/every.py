"""Every format that can be written: a file name, and names of tensors that it takes."""

from __future__ import annotations

from converter.formats import FORMATS

#: The spelling of the i-th tensor where the format has a rule for names.
_NAMES = {
    "keras": "layers/dense_{0}/vars/0",
    "keras-h5": "layers/dense_{0}/vars/0",
    "keras2-h5": "dense_{0}/dense_{0}/kernel:0",
    "tf-checkpoint": "dense_{0}/kernel/.ATTRIBUTES/VARIABLE_VALUE",
}
#: What a whole Keras model has beside its weights; most formats have no place for it.
MODEL = {"config.json": "{}", "metadata.json": "{}"}
#: format -> file name
FILES = {row.name: f"x{row.extensions[0]}" for row in FORMATS if row.extensions}


def names(row: str, count: int) -> list[str]:
    return [_NAMES.get(row, "layer{0}.weight").format(number) for number in range(count)]
