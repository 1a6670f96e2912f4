"""A PyTorch state_dict into safetensors, with the library's own save_file."""

from common import TARGET, load_torch
from safetensors.torch import save_file

save_file(load_torch(), TARGET)
