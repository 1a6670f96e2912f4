"""Names of tensors that the header's metadata tells: those that share another's data, and the nested ones of Flax.

``safetensors.torch.save_model`` stores tied tensors once, and of the others ``{name: the name that is stored}`` in
``__metadata__``. Transformers joins the keys of a Flax tree with dots, and says ``format: flax``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec.structs import replace

from converter.core.tensors import TensorSpec

__all__ = ["aliases", "joined_with_dots", "named", "ties", "without_aliases"]


def aliases(metadata: Mapping[str, str], stored: Collection[str]) -> dict[str, str]:
    """Name that is not stored -> the stored one whose data it has."""
    return {name: kept for name, kept in metadata.items() if kept in stored and name not in stored}


def ties(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Of a file that is written: name that need not be stored -> the one that is, whose data it has."""
    told = {name: kept for name, kept in metadata.items() if name in names and kept in names and name != kept}
    return {name: kept for name, kept in told.items() if kept not in told}


def without_aliases(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The metadata that name no tensor as another."""
    return {name: text for name, text in metadata.items() if text not in names}


def named(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> dict[str, tuple[TensorSpec, str]]:
    """Name of each tensor, aliases too -> its spec, and the name under which it is stored.

    An alias stands where it would be, had the file been sorted with it, or else behind what it is tied to.
    """
    stored = {spec.name: spec for spec in specs}
    others: dict[str, list[str]] = {}
    for name, kept in aliases(metadata, stored).items():
        others.setdefault(kept, []).append(name)
    is_dotted = metadata.get("format") == "flax" and not any("/" in name for name in (*stored, *others))
    if not others and not is_dotted:
        return {name: (spec, name) for name, spec in stored.items()}
    listed = [(name, kept) for kept in stored for name in (kept, *others.get(kept, ()))]
    ranks = {dtype: rank for rank, dtype in enumerate(dict.fromkeys(spec.dtype for spec in stored.values()))}
    if list(stored) == sorted(stored, key=lambda name: (ranks[stored[name].dtype], name)):
        listed.sort(key=lambda pair: (ranks[stored[pair[1]].dtype], pair[0]))
    shown = {name: name.replace(".", "/") if is_dotted else name for name, _ in listed}
    return {shown[name]: (replace(stored[kept], name=shown[name]), kept) for name, kept in listed}


def joined_with_dots(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> dict[str, str]:
    """The inverse, for a file that is written: each name -> the one that is stored."""
    names = [spec.name for spec in specs]
    is_dotted = metadata.get("format") == "flax" and not any("." in name for name in names)
    return {name: name.replace("/", ".") if is_dotted else name for name in names}
