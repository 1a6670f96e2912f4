"""Whose factor a tensor of an adapter is, by its name: in the spelling of PEFT, of kohya's scripts and of diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import msgspec

from converter.core.tensors import TensorSpec

Role: TypeAlias = Literal["a", "b", "b_bias", "embedding_a", "embedding_b", "magnitude", "alpha", "instead"]
Spelling: TypeAlias = Literal["PEFT", "kohya", "diffusers"]

#: PEFT (save_pretrained): ``base_model.model.layers.0.q.lora_A.weight``; older files name the adapter, too.
_PEFT = "base_model.model."
_PEFT_NAME = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<leaf>weight|bias))?"
)
_PEFT_ROLES: Mapping[tuple[str, str | None], Role] = {
    ("lora_A", "weight"): "a",
    ("lora_B", "weight"): "b",
    ("lora_B", "bias"): "b_bias",
    ("lora_embedding_A", None): "embedding_a",
    ("lora_embedding_B", None): "embedding_b",
    ("lora_magnitude_vector", None): "magnitude",
    ("lora_magnitude_vector", "weight"): "magnitude",
}
#: Of a module that PEFT trains as a whole, or of the layer below an adapter.
_WRAPPED = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.[^.]+$)")
#: kohya-ss/sd-scripts: ``lora_unet_down_blocks_0_to_q.lora_down.weight``, dots as underscores.
_KOHYA = re.compile(
    r"lora_(?:unet|te|te1|te2|te3|transformer)_(?P<module>.+)\.(?P<part>lora_down|lora_up|alpha)(?P<leaf>\.weight)?"
)
#: diffusers (save_lora_weights): ``unet.down_blocks.0.to_q.lora_A.weight``, or ``.lora.down.weight``.
_DIFFUSERS = re.compile(
    r"(?:unet|transformer|text_encoder(?:_\d)?)\.(?P<module>.+)\.(?P<part>lora_A|lora_B|lora\.down|lora\.up|alpha)(?P<leaf>\.weight)?"
)
_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("lora_down", "lora_A", "lora.down"), "a"),
    **dict.fromkeys(("lora_up", "lora_B", "lora.up"), "b"),
    "alpha": "alpha",
}


class Factor(msgspec.Struct, frozen=True):
    """A tensor of an adapter. module: path of the layer of the base that it is for (with underscores in kohya's
    spelling); of one that stands ``instead`` of another, the whole name of that.
    """

    module: str
    role: Role
    spec: TensorSpec


class Named(msgspec.Struct, frozen=True):
    """All tensors of an adapter. unknown: names that the spelling does not have."""

    spelling: Spelling
    factors: tuple[Factor, ...]
    unknown: tuple[str, ...]

    @property
    def modules(self) -> Mapping[str, Mapping[Role, TensorSpec]]:
        """Layer -> its factors by role, without what stands instead of a tensor."""
        found: dict[str, dict[Role, TensorSpec]] = {}
        for factor in self.factors:
            if factor.role != "instead":
                found.setdefault(factor.module, {})[factor.role] = factor.spec
        return found


def named(specs: Iterable[TensorSpec], spelling: Spelling) -> Named:
    """The tensors of an adapter by what they are for. A second tensor of one role is unknown."""
    factors: dict[tuple[str, Role], Factor] = {}
    unknown = []
    for spec in specs:
        factor = _peft(spec) if spelling == "PEFT" else _plain(spec, _KOHYA if spelling == "kohya" else _DIFFUSERS)
        if factor is None or (factor.module, factor.role) in factors:
            unknown.append(spec.name)
        else:
            factors[factor.module, factor.role] = factor
    return Named(spelling, tuple(factors.values()), tuple(unknown))


def spelling_of(names: Iterable[str]) -> Spelling | None:
    """Of a file without ``adapter_config.json``; None where it is no adapter that tells its scale."""
    known = list(names)
    if any(_KOHYA.fullmatch(name) for name in known):
        return "kohya"
    return "diffusers" if any(_DIFFUSERS.fullmatch(name) for name in known) else None


def _peft(spec: TensorSpec) -> Factor | None:
    if not spec.name.startswith(_PEFT):
        return None
    name = spec.name.removeprefix(_PEFT)
    met = _PEFT_NAME.fullmatch(name)
    if met is not None:
        role = _PEFT_ROLES.get((met["part"], met["leaf"]))
        return None if role is None or ".base_layer" in met["module"] else Factor(met["module"], role, spec)
    plain = _WRAPPED.sub("", name)
    return None if "lora_" in plain or "_adapter" in plain else Factor(plain, "instead", spec)


def _plain(spec: TensorSpec, pattern: re.Pattern[str]) -> Factor | None:
    met = pattern.fullmatch(spec.name)
    if met is None or (met["part"] == "alpha") != (met["leaf"] is None):
        return None
    return Factor(met["module"], _ROLES[met["part"]], spec)
