"""``adapter_config.json`` of PEFT: how strongly each layer's factors count, and what cannot be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from converter.errors import ConversionError, listed

#: How ``init_lora_weights`` may begin without a change of the base; the others (PiSSA, OLoRA, LoftQ, CorDA …) take
#: something away from its weights, which a file of the base has still.
_KEEPS_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
#: What says nothing of the merged weights: where the adapter came from, which layers it was for, how it was trained.
_IDLE = frozenset(
    "auto_mapping base_model_name_or_path corda_config eva_config exclude_modules inference_mode layers_pattern "
    "layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size "
    "revision runtime_config target_modules task_type".split()
)
_MOST_RANK = 1 << 24
#: Pieces of a pattern that are plain enough for every name to be compared in no time.
_PIECE = re.compile(r"[\w-]|\\?\.(?![*+?{])|\\d\+|\[0-9\]\+|\.\*")
_MOST_STARS = 2


class PeftConfig(msgspec.Struct, frozen=True):
    """What merging takes from the file. Patterns are PEFT's: of the end of a layer's path, from a dot on."""

    r: int
    lora_alpha: float
    peft_type: str = "LORA"
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    bias: str = "none"
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True

    def rank(self, module: str) -> int:
        """The rank that it states of this layer."""
        return int(_first(self.rank_pattern or {}, module, self.r))

    def scale(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha, rank = float(_first(self.alpha_pattern or {}, module, self.lora_alpha)), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, name: str) -> bool:
        """Whether a tensor of the base may stand in the adapter as a whole: of a module that was trained, or a bias."""
        module, _, leaf = name.rpartition(".")
        whole = any(module == saved or module.endswith(f".{saved}") for saved in self._saved)
        below = any(f".{saved}." in f".{module}." for saved in self._saved)
        return whole or below or (leaf == "bias" and self.bias != "none")

    @property
    def _saved(self) -> tuple[str, ...]:
        return (*(self.modules_to_save or ()), "embed_tokens", "lm_head")  # the last by `save_embedding_layers`


def parse_config(document: Mapping[str, Any]) -> PeftConfig:
    """Raises ConversionError for an adapter that is no LoRA, that cannot be merged, or that has values of no sense."""
    kind = document.get("peft_type")
    if kind != "LORA":
        raise ConversionError(f"its peft_type is {kind!r}, and LORA (with DoRA and rsLoRA) alone is merged")
    known = _IDLE.union(PeftConfig.__struct_fields__)
    refused = [name[:80] for name, value in document.items() if value and name not in known]
    if refused:
        raise ConversionError(f"it has {listed(refused)}, and what that does to a merged weight is not known")
    try:
        config = msgspec.convert(document, PeftConfig)
    except msgspec.ValidationError as error:
        raise ConversionError(f"it is no configuration of an adapter: {error}") from None
    if config.init_lora_weights not in _KEEPS_THE_BASE:
        raise ConversionError(
            f"it began with init_lora_weights={config.init_lora_weights!r}, which changes the weights of the base. "
            "Convert it to a plain LoRA first (PEFT: save_pretrained(…, path_initial_model_for_weight_conversion=…))"
        )
    if config.use_dora and config.lora_bias:
        raise ConversionError("it has use_dora and lora_bias, which PEFT does not have together")
    _check_numbers(config)
    for pattern in (*(config.rank_pattern or {}), *(config.alpha_pattern or {})):
        _compiled(pattern)
    return config


def _check_numbers(config: PeftConfig) -> None:
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if not 0 < rank <= _MOST_RANK:
            raise ConversionError(f"it has the rank {rank}, where 1 to {_MOST_RANK} was expected")
    for alpha in (config.lora_alpha, *(config.alpha_pattern or {}).values()):
        if not math.isfinite(alpha):
            raise ConversionError(f"it has the alpha {alpha}, which is no number")


def _first(values: Mapping[str, Any], module: str, default: Any) -> Any:
    return next((value for pattern, value in values.items() if _compiled(pattern).fullmatch(module)), default)


def _compiled(pattern: str) -> re.Pattern[str]:
    """As PEFT reads it; refused where it is a pattern that might take long."""
    body = pattern.removeprefix("^").removesuffix("$")
    stars = body.count(".*")
    if _PIECE.sub("", body) or stars > _MOST_STARS or len(body) > 1000:
        raise ConversionError(f"the pattern '{pattern[:80]}' is none of plain names, '.', '\\d+' and at most two '.*'")
    return re.compile(body if pattern.startswith("^") else rf"(?:.*\.)?(?:{body})")
