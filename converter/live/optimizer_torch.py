"""``torch.optim.Optimizer``: its ``state_dict``, with the names of the parameters that are in its groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import ConversionError, Problem
from converter.formats.torch.training import PLACE, TIED
from converter.live.optimizers import LiveOptimizer, resolved, state_tensor
from converter.live.torch import as_tensor

_WEIGHTS, _OPTIMIZER = "model", "optimizer"
#: Of a group, what says how a step is computed, and not which.
_OWN = frozenset(
    "foreach fused capturable differentiable maximize initial_accumulator_value params param_names".split()
)


class Adapter(LiveOptimizer):
    form = "torch"

    def values(self) -> Mapping[str, Any]:
        document = self._plain(self.optimizer.state_dict(), _OPTIMIZER)
        first = self._first_names()
        tied = {name: first[id(value)] for name, value in self._named() if first[id(value)] != name}
        return {_OPTIMIZER: document, TIED: tied, PLACE: _WEIGHTS}

    def order(self) -> Sequence[str]:
        names = self._first_names()
        every = [value for group in self.optimizer.param_groups for value in group["params"]]
        foreign = next((value for value in every if id(value) not in names), None)
        if foreign is not None:
            what = f"{self.title} has a parameter of shape {tuple(foreign.shape)} that the net does not have"
            text = f"{what}: make it with the parameters of this net."
            raise ConversionError(Problem(text, "order of the state"))
        return [names[id(value)] for value in every]

    def prepared(self, contents: Contents, arrays: Mapping[str, Array]) -> Callable[[], Any]:
        document = resolved(contents.tree[_OPTIMIZER], {name: as_tensor(array) for name, array in arrays.items()})
        groups = [
            {**own, **{key: value for key, value in new.items() if key not in _OWN}}
            for own, new in zip(self.optimizer.state_dict()["param_groups"], document["param_groups"], strict=True)
        ]
        return self._setting({"state": document["state"], "param_groups": groups})

    def undo(self) -> Callable[[], Any]:
        return self._setting(self.optimizer.state_dict())

    def _setting(self, document: Any) -> Callable[[], Any]:
        def set_it() -> Any:
            self.optimizer.load_state_dict(document)
            return self.optimizer

        return set_it

    def _named(self) -> list[tuple[str, Any]]:
        return list(self.live.net.named_parameters(remove_duplicate=False))

    def _first_names(self) -> dict[int, str]:
        """Of a parameter under several names the first, under which an optimizer counts it."""
        return {id(value): name for name, value in reversed(self._named())}

    def _plain(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: self._plain(item, f"{name}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item, f"{name}/{index}") for index, item in enumerate(value)]
        if hasattr(value, "dtype"):
            return state_tensor(name, value, self.live)
        return value if isinstance(value, bool | int | float | str) else None
