"""How llama.cpp stores the tensors of a net otherwise than other code bases do, undone on the way to these.

Its Llama rotates neighbours, where those of Hugging Face and KerasHub rotate the halves of a head: the rows of queries
and keys stand in another order (`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py, by which they came there).
To the scales of Gemma's norms it adds one, which others add when they run (`GemmaModel.modify_tensors`). What it does
to other architectures (fused tensors taken apart) is not undone: these are read under their own names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from converter.core.arithmetic import Added
from converter.core.contents import Contents
from converter.core.ops import Turn
from converter.errors import MatchError, Placeholder, Problem, Remedy
from converter.planning.steps import Step

#: ``general.architecture`` of those whose values are the same in other code bases, but for the order of rotated rows.
_SAME = frozenset({"llama", "qwen2", "qwen3", "gemma", "gemma2"})
_NEIGHBOURS = frozenset({"llama"})
_ITS_NAMES = re.compile(r"blk\.[0-9]+\.(attn|ffn|ssm)_\w+\.(weight|bias)")
_TURNED = re.compile(r"blk\.[0-9]+\.attn_([qk])\.(?:weight|bias)")
_HALVES = re.compile(r"(?:^|[./])(?:self_attn[./][qk]_proj|_self_attention_layer[./](?:query|key))(?:$|[./])")
#: Those whose scales hold the one that code bases with these names of norms add: transformers, LitGPT and KerasHub.
_ONE_ADDED = frozenset({"gemma", "gemma2"})
_SCALE = re.compile(r"(?:.*\.)?(?:attn|ffn|post_attention|post_ffw|output)_norm\.weight")
_LESS_ONE = re.compile(
    r"(?:.*[./])?(?:(?:input|(?:post_attention|pre_feedforward|post_feedforward)_)_?layernorm|norm|norm_1|norm_2|ln_f"
    r"|(?:pre|post)_(?:attention|ffw)_norm|final_normalization)[./](?:vars[./])?(?:weight|scale|0)"
)
_META = re.compile(r"(?:^|[./])attention[./]w[qk](?:$|[./])")


class ToHalves(Turn, frozen=True):
    """Rows of which neighbours are rotated together, as the halves of each head are."""

    done = "rotated neighbours put as the halves of each head"


def rotated(steps: tuple[Step, ...], source: Contents) -> tuple[Step, ...]:
    """The steps of a source with the names of llama.cpp, as the code base of each target needs them.

    Raises MatchError where nothing says how a tensor is to be undone.
    """
    architecture = source.metadata.get("general.architecture", "")
    if not any(_ITS_NAMES.fullmatch(spec.name) for spec in source.specs):
        return steps
    problems: list[Problem] = []
    done = tuple(_undone(step, architecture, source.metadata, problems) for step in steps)
    if problems:
        raise MatchError(problems)
    return done


def _undone(step: Step, architecture: str, metadata: Mapping[str, str], problems: list[Problem]) -> Step:
    elsewhere = [spec.name for spec in step.sources if not _is_named_so(spec.name, step.target.name)]
    if not elsewhere:
        return step
    if architecture not in _SAME:
        what = (
            f"as llama.cpp stores '{architecture}'" if architecture else "with names of llama.cpp, of no architecture"
        )
        text = f"'{elsewhere[0]}' is {what}, which may differ from '{step.target.name}' of another code base"
        problems.append(Problem(f"{text}: this is undone for {', '.join(sorted(_SAME))} alone.", "llama.cpp"))
        return step
    if architecture in _ONE_ADDED and any(map(_SCALE.fullmatch, elsewhere)):
        return _less_one(step, elsewhere[0], problems)
    matches = [match for name in elsewhere if (match := _TURNED.fullmatch(name))]
    if architecture not in _NEIGHBOURS or not matches or any(isinstance(op, Turn) for op in step.ops):
        return step
    if _META.search(step.target.name):
        return step
    heads = _heads(metadata, architecture, matches[0][1])
    rows = step.sources[0].shape[0]
    if len(step.sources) != 1 or not _HALVES.search(step.target.name) or not heads or rows % (2 * heads):
        text = (
            f"'{elsewhere[0]}' has rotated neighbours side by side, and nothing says how '{step.target.name}' has them."
        )
        remedy = Remedy("rotary", (step.layer, Placeholder("N:halves")))
        problems.append(Problem(text, "rotary", step.layer, remedies=(remedy,)))
        return step
    return replace(step, ops=(ToHalves(0, ((rows // (2 * heads), 2),) * heads), *step.ops))


def _less_one(step: Step, name: str, problems: list[Problem]) -> Step:
    if _LESS_ONE.fullmatch(step.target.name) and len(step.sources) == 1:
        return replace(step, ops=(Added(-1), *step.ops))
    text = f"'{name}' holds a scale, and nothing says whether '{step.target.name}' is that scale, or less one."
    problems.append(Problem(text, "llama.cpp"))
    return step


def _is_named_so(name: str, target: str) -> bool:
    """Whether the target has the layer's name, however it is spelled there."""
    path, there = (re.split(r"[./_]", text) for text in (name.rpartition(".")[0], target))
    return any(there[i : i + len(path)] == path for i in range(len(there)))


def _heads(metadata: Mapping[str, str], architecture: str, which: str) -> int:
    """0 where the file does not say."""
    keys: Iterable[str] = [f"{architecture}.attention.head_count"]
    if which == "k":
        keys = [f"{architecture}.attention.head_count_kv", *keys]
    stated = next((metadata[key] for key in keys if key in metadata), "")
    return int(stated) if re.fullmatch("[1-9][0-9]{0,8}", stated) else 0
