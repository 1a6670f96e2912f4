"""MXNet 1.9.1 beside a current NumPy: import this module before ``mxnet``, and nothing else is needed.

    import converter.mxnet_numpy2
    import mxnet

MXNet 1.9.1, the last release of its line, asks for names that NumPy removed in 1.20 to 2.4, most of them
while it is imported (``mxnet/numpy/utils.py``, ``mxnet/numpy/fallback.py``). This module gives them back to
the ``numpy`` module. It touches nothing else, importing it twice changes nothing, and a name that NumPy
still has (on older versions all of them) is left alone. The financial functions went to the package
``numpy-financial``; in their place stand functions that raise `NotImplementedError` when they are called.

pip refuses MXNet beside NumPy 2, because MXNet's metadata asks for ``numpy<2``: install it with
``pip install --no-deps mxnet==1.9.1`` and ``pip install requests graphviz``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np


def _msort(a: Any) -> Any:
    return np.sort(a, axis=0)


#: Removed name -> what NumPy puts in its place.
REPLACEMENTS: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("PINF", "Inf", "Infinity", "infty"), np.inf),
        **dict.fromkeys(("NAN", "NaN"), np.nan),
        "NINF": -np.inf,
        "PZERO": 0.0,
        "NZERO": -0.0,
        "bool": np.bool_,
        "int": int,
        "alltrue": np.all,
        "sometrue": np.any,
        "product": np.prod,
        "cumproduct": np.cumprod,
        "in1d": np.isin,
        "row_stack": np.vstack,
        "round_": np.round,
        "msort": _msort,
        "trapz": getattr(np, "trapezoid", None),  # the old name still stands where the new one does not
        "compat": SimpleNamespace(basestring=str),
    }
)

#: Removed functions that have no successor in NumPy.
GONE = tuple("mirr npv pmt ppmt pv fv ipmt irr nper rate asscalar safe_eval".split())


def _gone(name: str) -> Callable[..., NoReturn]:
    def removed(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"numpy.{name} was removed from NumPy; this stand-in only lets MXNet be imported")

    removed.__name__ = removed.__qualname__ = name
    return removed


def restore() -> tuple[str, ...]:
    """Give the missing names back to ``numpy``; which ones they were. Importing this module calls it."""
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions warn when a doomed name is only looked at
        for name, value in {**REPLACEMENTS, **{name: _gone(name) for name in GONE}}.items():
            if not hasattr(np, name):
                setattr(np, name, value)
                missing.append(name)
    return tuple(missing)


restore()
