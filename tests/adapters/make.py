"""Makes tests/samples/adapters: small bases, adapters of them, and what PEFT's merge_and_unload makes of both.

Needs torch, peft, transformers and safetensors, in an environment of their own: python tests/adapters/make.py
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

PLACE = Path(__file__).parents[1] / "samples" / "adapters"


class Block(nn.Module):
    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.q = Conv1D(6, 6) if turned else nn.Linear(6, 6)
        self.up = Conv1D(10, 6) if turned else nn.Linear(6, 10)
        self.down = Conv1D(6, 10) if turned else nn.Linear(10, 6)


class Net(nn.Module):
    def __init__(self, turned: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.conv = nn.Conv2d(2, 6, 3)
        self.layers = nn.ModuleList([Block(turned) for _ in range(2)])
        self.score = nn.Linear(6, 3)


LINEAR = ["q", "up", "down"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": LINEAR},
    "rslora": {"target_modules": LINEAR, "use_rslora": True, "lora_alpha": 3},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"up": 3, "layers.1.q": 1},
        "alpha_pattern": {r"layers\.\d+\.down": 5, "^layers.0.q": 7},
    },
    "conv1d": {"target_modules": LINEAR, "fan_in_fan_out": True},
    "dora": {"target_modules": [*LINEAR, "conv"], "use_dora": True},
    "dora_conv1d": {"target_modules": LINEAR, "use_dora": True, "fan_in_fan_out": True},
    "embedding": {"target_modules": ["embed", "q"]},
    "dora_embedding": {"target_modules": ["embed", "q"], "use_dora": True},
    "convolution": {"target_modules": ["conv"]},
    "modules_to_save": {"target_modules": ["q"], "modules_to_save": ["score"]},
    "biases": {"target_modules": LINEAR, "bias": "lora_only"},
    "lora_bias": {"target_modules": LINEAR, "lora_bias": True},
}


def randomise(net: nn.Module, only_trained: bool = False) -> None:
    for parameter in net.parameters():
        if parameter.requires_grad or not only_trained:
            parameter.data = torch.randn_like(parameter) * 0.5


def make(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(sum(map(ord, name)))
    base = Net(turned="conv1d" in name)
    randomise(base)
    folder = PLACE / name
    folder.mkdir(parents=True)
    save_file(base.state_dict(), folder / "base.safetensors")
    net = get_peft_model(copy.deepcopy(base), LoraConfig(**{"r": 2, "lora_alpha": 4, **settings}))
    randomise(net, only_trained=True)
    net.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)
    net.eval()
    merged = net.merge_and_unload().state_dict()
    save_file({key: value.contiguous() for key, value in merged.items()}, folder / "merged.safetensors")


def main() -> None:
    shutil.rmtree(PLACE, ignore_errors=True)
    for name, settings in VARIANTS.items():
        make(name, settings)
        config = PLACE / name / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
