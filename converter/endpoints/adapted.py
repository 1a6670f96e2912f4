"""A base with an adapter merged into it: the tensors of a file, each adapted one computed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from converter.adapters.config import PeftConfig, parse_config
from converter.adapters.merge import Low, fitted, merged, merged_bias
from converter.adapters.names import Named, Role, named, spelling_of
from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec, is_float
from converter.endpoints.readers import ComputingReader
from converter.errors import ConversionError, FormatError, MatchError, Problem, listed, near_misses
from converter.formats import Reader, open_reader
from converter.formats.base import Opening
from converter.formats.io.budget import beyond
from converter.formats.io.files import Beside
from converter.formats.io.json import read_json
from converter.formats.io.source import frozen
from converter.formats.locations import location
from converter.options import ReadOptions

__all__ = ["MergingReader", "with_adapter"]

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
#: Modules that lead all names of some files of a net, and none of others.
_LEADING = ("model", "transformer", "base_model")


class _Added(msgspec.Struct, frozen=True):
    """What the adapter does to a tensor of the base. low: its factors; bias: what is added, and how often; instead:
    what stands in its place.
    """

    low: Low | None = None
    bias: tuple[TensorSpec, float] | None = None
    instead: TensorSpec | None = None

    @property
    def title(self) -> str:
        if self.low is not None:
            return self.low.title + (", of a base from it" if self.instead else "")
        return "bias added" if self.bias else "trained as a whole"


class MergingReader(ComputingReader):
    """The tensors of ``reader`` under their names, each with what the adapter adds to it; one is in memory at a time.

    Raises MatchError, with every tensor of the adapter that meets no tensor of the base or does not fit it.
    """

    def __init__(self, reader: Reader, path: Path) -> None:
        super().__init__(reader)
        self._opened = ExitStack()
        try:
            adapter, found, config = _opened(path)
            self._adapter = self._opened.enter_context(adapter)
            self._made = _matched(path, reader.contents, found, self._scales(path, found, config), config)
        except BaseException:
            self._opened.close()
            raise
        self.parallel = reader.parallel and adapter.parallel
        self._folder = path
        adapted = {name: added.title for name, added in self._made.items()}
        self._contents = replace(reader.contents, adapted=adapted)

    def _scales(self, path: Path, found: Named, config: PeftConfig | None) -> Mapping[str, float]:
        """Layer -> how strongly its factors count. Without a configuration alpha / r; alpha is r if not stated."""
        if config is not None:
            return {module: config.scale(module) for module in found.modules}
        scales = {}
        for module, roles in found.modules.items():
            alpha, down = roles.get("alpha"), roles.get("a")
            if alpha is not None and (alpha.size != 1 or not is_float(alpha.dtype)):
                raise FormatError(path, f"'{alpha.name}' is no single number")
            rank = down.shape[0] if down is not None and down.shape else 0
            scales[module] = float(self._adapter.read(alpha.name).reshape(())) / max(rank, 1) if alpha else 1.0
        return scales

    @property
    def files(self) -> tuple[Path, ...]:
        return (*super().files, self._folder)

    def read(self, name: str) -> Array:
        added = self._made.get(name)
        if added is None:
            return self._reader.read(name)
        base = self._adapter.read(added.instead.name) if added.instead else self._reader.read(name)
        spec = self.contents.by_name[name]
        with self._budget.lent(beyond(spec.nbytes, min(spec.nbytes, self._stored)), f"'{name}'"):
            return frozen(self._computed(name, added, base))

    def _computed(self, name: str, added: _Added, base: Array) -> Array:
        if added.bias is not None:
            spec, scale = added.bias
            return merged_bias(base, self._adapter.read(spec.name), scale)
        if added.low is None:
            return base
        low, read = added.low, self._adapter.read
        magnitude = read(low.magnitude.name) if low.magnitude else None
        try:
            return merged(base, low, read(low.a.name), read(low.b.name), magnitude)
        except ConversionError as error:
            raise FormatError(self._folder, f"'{name}' cannot be merged: {error}") from None

    @property
    def opening(self) -> Opening:
        opening = self._reader.opening
        return replace(opening, reader=partial(_reopened, opening.reader, self._folder.absolute()))

    def close(self) -> None:
        self._opened.close()
        super().close()


def with_adapter(reader: Reader, path: str) -> Reader:
    """The reader with this adapter merged in. Raises ConversionError."""
    return MergingReader(reader, location(path))


def _reopened(
    reader: Callable[[Path, ReadOptions], Reader], folder: Path, path: Path, options: ReadOptions
) -> MergingReader:
    return MergingReader(reader(path, options), folder)


# -- the adapter ------------------------------------------------------------------------------------------------------


def _opened(path: Path) -> tuple[Reader, Named, PeftConfig | None]:
    """A folder of PEFT, or a single file of kohya's scripts or diffusers. Raises ConversionError."""
    if path.is_dir():
        files = Beside(path)
        there = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
        if there is None or not (path / _CONFIG).is_file():
            raise FormatError(path, f"no folder of an adapter: it lacks {_CONFIG}, or {' and '.join(_WEIGHTS)}")
        try:
            config = parse_config(read_json(path / _CONFIG, files))
        except FormatError:
            raise
        except ConversionError as error:
            raise FormatError(path / _CONFIG, str(error)) from None
        files.checked(there)
        reader = open_reader(there)[1]
        return reader, named(reader.contents.specs, "PEFT"), config
    reader = open_reader(path)[1]
    spelling = spelling_of(spec.name for spec in reader.contents.specs)
    if spelling is None or "lora_adapter_metadata" in reader.contents.metadata:
        reader.close()
        what = (
            "its names are not those of kohya's scripts or diffusers"
            if spelling is None
            else "its metadata has a scale"
        )
        raise FormatError(path, f"{what}. Name a folder with {_CONFIG} and {_WEIGHTS[0]}")
    return reader, named(reader.contents.specs, spelling), None


# -- which tensor of the base -----------------------------------------------------------------------------------------


def _matched(
    path: Path, base: Contents, found: Named, scales: Mapping[str, float], config: PeftConfig | None
) -> Mapping[str, _Added]:
    """Tensor of the base -> what is added to it. Raises MatchError, with all that cannot be merged."""
    problems = [_problem(name, "is no tensor of a LoRA") for name in found.unknown]
    of_base = _names_in_base(base, found)
    added: dict[str, _Added] = {}
    instead = {factor.module: factor.spec for factor in found.factors if factor.role == "instead"}
    for name, spec in instead.items():
        there = base.by_name.get(of_base(name))
        if there is None:
            problems.append(_meets_nothing(spec.name, of_base(name), base))
        elif config is not None and not (config.saves(name) or name.rpartition(".")[0] in found.modules):
            problems.append(_problem(spec.name, "is a whole tensor, and of no module of modules_to_save"))
        elif spec != replace(there, name=spec.name):
            problems.append(_problem(spec.name, f"is {_shown(spec)}, and '{there.name}' of the base {_shown(there)}"))
        else:
            added[there.name] = _Added(instead=spec)
    turned = _orientation(base, found, of_base, config)
    for module, roles in found.modules.items():
        weight = base.by_name.get(of_base(f"{module}.weight"))
        if weight is None:
            problems += [_meets_nothing(spec.name, of_base(f"{module}.weight"), base) for spec in roles.values()]
            continue
        low, wrong = _low(weight, roles, scales[module], turned, config.rank(module) if config else None)
        problems += [_problem(spec.name, wrong) for spec in list(roles.values())[:1] if wrong]
        if low is not None:
            added[weight.name] = _Added(low, instead=added[weight.name].instead if weight.name in added else None)
        if "b_bias" in roles:
            problems += _bias(added, base, of_base(f"{module}.bias"), roles["b_bias"], scales[module])
    if not added and not problems:
        problems.append(Problem("the adapter has no tensors.", "adapter"))
    if problems:
        raise MatchError(problems).of(str(path))
    return added


def _low(
    weight: TensorSpec, roles: Mapping[Role, TensorSpec], scale: float, turned: bool, rank: int | None
) -> tuple[Low | None, str]:
    """The factors of a weight; or None, and what is wrong with them."""
    embedding = "embedding_a" in roles or "embedding_b" in roles
    a, b = (roles.get("embedding_a"), roles.get("embedding_b")) if embedding else (roles.get("a"), roles.get("b"))
    magnitude = roles.get("magnitude")
    if a is None or b is None:
        return None, "stands alone: a LoRA has two factors, A and B"
    if not all(is_float(spec.dtype) for spec in (weight, a, b, *([magnitude] if magnitude else []))):
        return None, f"is to be merged into '{weight.name}', and one of them is no float"
    across = fitted(weight, a, b, magnitude, turned or embedding)
    if across is None or (embedding and not across):
        shapes = f"A {a.shape}, B {b.shape}" + (f" and the magnitude {magnitude.shape}" if magnitude else "")
        return None, f"does not fit '{weight.name}' {weight.shape}: {shapes}"
    if rank is not None and rank != b.shape[1]:
        return None, f"has the rank {b.shape[1]}, and {_CONFIG} says {rank}"
    return Low(a, b, scale, across, magnitude), ""


def _bias(added: dict[str, _Added], base: Contents, name: str, spec: TensorSpec, scale: float) -> list[Problem]:
    there = base.by_name.get(name)
    if there is None or there.shape != spec.shape or not is_float(there.dtype):
        return [_problem(spec.name, f"is added to a bias, and the base has no '{name}' of shape {spec.shape}")]
    if name in added:
        return [_problem(spec.name, f"is added to '{name}', which the adapter replaces, too")]
    added[name] = _Added(bias=(spec, scale))
    return []


def _orientation(base: Contents, found: Named, of_base: Callable[[str], str], config: PeftConfig | None) -> bool:
    """Whether square weights are stored as [in, out]: what the configuration says, unless other layers show that it
    is not so. Raises ConversionError where these differ among themselves, and there are square ones.
    """
    stated = config.fan_in_fan_out if config is not None else False
    shown: dict[bool, str] = {}
    square = ""
    for module, roles in found.modules.items():
        weight, a, b = base.by_name.get(of_base(f"{module}.weight")), roles.get("a"), roles.get("b")
        if weight is None or a is None or b is None or len(weight.shape) != 2:
            continue
        if weight.shape[0] == weight.shape[1]:
            square = square or module
        elif (across := fitted(weight, a, b, None, stated)) is not None:
            shown.setdefault(across, module)
    if square and shown and (len(shown) > 1 or stated not in shown):
        other = shown[not stated]
        raise ConversionError(
            f"'{square}' is square, and nothing tells how it is stored: fan_in_fan_out is {stated}, and '{other}' "
            "shows the opposite"
        )
    return stated


def _names_in_base(base: Contents, found: Named) -> Callable[[str], str]:
    """How a name of the adapter reads in the base: with dots instead of kohya's underscores, and with or without a
    leading module that all names of the one have and those of the other do not.
    """
    if found.spelling == "kohya":
        dotted: dict[str, str] = {}
        for name in base.by_name:
            module, _, leaf = name.rpartition(".")
            flat = f"{module.replace('.', '_')}.{leaf}"
            dotted[flat] = "" if flat in dotted else name  # two layers of one spelling are neither of them
        return lambda name: dotted.get(name) or name
    wanted = [f"{module}.weight" for module in found.modules]
    wanted += [factor.module for factor in found.factors if factor.role == "instead"]
    ways: list[Callable[[str], str]] = [str]
    ways += [partial(_without, f"{leading}.") for leading in _LEADING]
    ways += [partial(_with, f"{leading}.") for leading in _LEADING]
    return max(ways, key=lambda way: sum(way(name) in base.by_name for name in wanted))


def _without(leading: str, name: str) -> str:
    return name.removeprefix(leading)


def _with(leading: str, name: str) -> str:
    return leading + name


# -- words ------------------------------------------------------------------------------------------------------------


def _problem(name: str, what: str) -> Problem:
    summary = "{count} tensors of the adapter cannot be merged."
    return Problem(f"'{name}' of the adapter {what}.", "adapter", name, summary=summary)


def _meets_nothing(name: str, wanted: str, base: Contents) -> Problem:
    near: Iterable[str] = near_misses(wanted, base.by_name)
    hint = f"The nearest are {listed(near)}" if near else f"It has {listed(base.by_name)}"
    return _problem(name, f"meets no tensor of the base, which has no '{wanted}'. {hint}")


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype.name} {spec.shape}"
