"""Adapters that stay adapters, between nets of all frameworks that have them: the same outputs, merged or not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from flax import nnx

import converter


class Peft(torch.nn.Module):
    """A layer with the names that PEFT gives it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.base_layer = torch.nn.Linear(6, 10)
        self.lora_A = torch.nn.Linear(6, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scale is 1: r and alpha are 2."""
        out: torch.Tensor = self.base_layer(x) + self.lora_B(self.lora_A(x))
        return out


X = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)


def outputs(net: torch.nn.Module) -> Any:
    with torch.no_grad():
        return net(torch.tensor(X)).numpy()


class Holder(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.LoRALinear(6, 10, lora_rank=2, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.dense(x)


def test_peft_and_nnx() -> None:
    source, clone, back = Peft(), Holder(), Peft()
    names = {"base_layer": "dense", "lora_A": "dense.lora.lora_a", "lora_B": "dense.lora.lora_b"}
    converter.load_into(clone, source, map=names)
    np.testing.assert_allclose(clone(X), outputs(source), rtol=1e-5, atol=1e-5)
    torch.nn.init.zeros_(back.lora_B.weight)
    converter.load_into(back, clone, map={there: here for here, there in names.items()})
    np.testing.assert_allclose(outputs(back), outputs(source), rtol=1e-5, atol=1e-5)


def test_peft_and_keras() -> None:
    source, back = Peft(), Peft()
    clone = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10, name="dense")])
    clone.layers[0].enable_lora(2)
    names = {"base_layer": "dense", "lora_A": "dense.lora_kernel_a", "lora_B": "dense.lora_kernel_b"}
    converter.load_into(clone, source, map=names)
    np.testing.assert_allclose(np.asarray(clone(X)), outputs(source), rtol=1e-5, atol=1e-5)
    torch.nn.init.zeros_(back.lora_B.weight)
    converter.load_into(back, clone, map={there: here for here, there in names.items()})
    np.testing.assert_allclose(outputs(back), outputs(source), rtol=1e-5, atol=1e-5)


def test_that_the_scale_is_no_weight_is_said(tmp_path: Any) -> None:
    torch.save(Peft().state_dict(), tmp_path / "x.pt")
    report = converter.convert("torch->flax", tmp_path / "x.pt", tmp_path / "x.msgpack", kind={"*": "linear"})
    said = next(check for check in report.checks if check.property == "scale of LoRA")
    assert said.layers == ("lora_A", "lora_B") and "alpha / r" in said.source and "nnx" in said.target
