"""What a pickle names and we do not know: which of it is data, to be kept as `Opaque`, and which a call to be refused.

Nothing is imported and nothing run in either case. The refusal tells the user that the file tries to.
"""

from __future__ import annotations

import re
import sys

from converter.formats.pickle.values import Global, Opaque, UnsafePickleError

__all__ = ["InertClass", "inert_class"]

#: The programs that people run themselves, whose classes are theirs and not Python's.
_PROGRAMS = ("__main__", "__mp_main__")
#: Functions that only put an instance together again, by the names that Cython, NumPy and pandas give them.
_REBUILDS = re.compile(r"__pyx_unpickle_\w+|__\w+_ctor|_?(re)?construct\w*|_?rebuild_\w+|_?unpickle_\w+|_new_[A-Z]\w*")
#: Of the standard library, what ordinary checkpoints hold beside their tensors: values, by their modules.
_VALUES = {
    "_io": "BytesIO StringIO",
    "argparse": "Namespace",
    "array": "_array_reconstructor",
    "builtins": "iter zip map enumerate reversed filter",
    "collections": "ChainMap UserDict UserList UserString",
    "copyreg": "__newobj__ __newobj_ex__",
    "dataclasses": "Field _MISSING_TYPE _HAS_DEFAULT_FACTORY_CLASS",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal Context",
    "fractions": "Fraction",
    "http": "HTTPStatus",
    "inspect": "Parameter Signature _ParameterKind",
    "ipaddress": "IPv4Address IPv6Address IPv4Network IPv6Network",
    "itertools": "count cycle repeat chain islice product",
    "logging": "getLogger Logger RootLogger Formatter StreamHandler",
    "operator": "itemgetter attrgetter or_",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random SystemRandom",
    "re": "_compile RegexFlag",
    "signal": "Signals",
    "string": "Template",
    "time": "struct_time",
    "types": "SimpleNamespace GenericAlias",
    "typing": "_GenericAlias _UnionGenericAlias _LiteralGenericAlias",
    "uuid": "UUID SafeUUID",
    "zoneinfo": "ZoneInfo",
}
#: Other names of these modules, in one Python or another.
_SPELLED = {
    "__builtin__": "builtins",
    "_decimal": "decimal",
    "_operator": "operator",
    "copy_reg": "copyreg",
    "pathlib._local": "pathlib",
}
_OTHERS = frozenset({"torch.nn.backends.thnn _get_thnn_function_backend"})
_ATTRIBUTES = frozenset({"builtins getattr", "__builtin__ getattr", "functools partial"})


class InertClass:
    """Called in place of an unknown global: makes an `Opaque` where that is a class, and raises otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._is_data = _is_unknown_class(name) or _is_value(name)

    def __call__(self, *args: object) -> object:
        if not (self._is_data or _is_attribute_of_one(self.name, args)):
            raise UnsafePickleError(f"calls '{self.name.replace(' ', '.')}', which is not data")
        return Opaque(self.name, args)

    def instance(self, *args: object) -> object:
        """By the opcodes that make an instance without a call, which only a class has: it may have any name."""
        return Opaque(self.name, args) if self.name.partition(" ")[0] in _PROGRAMS else self(*args)


#: For `unknown` of `load`: instances of unknown classes become `Opaque`; calls of functions stay refused. A class is
#: told from a function by its capital letter. Bound methods and partial functions are `Opaque` too.
inert_class = InertClass


def _is_of_python(module: str) -> bool:
    is_own = module in _PROGRAMS
    return not is_own and (module.partition(".")[0] in sys.stdlib_module_names or module.startswith("__"))


def _is_unknown_class(name: str) -> bool:
    module, _, symbol = name.partition(" ")
    return not _is_of_python(module) and all(part.lstrip("_")[:1].isupper() for part in symbol.split("."))


def _is_value(name: str) -> bool:
    module, _, symbol = name.partition(" ")
    if symbol in _VALUES.get(_SPELLED.get(module, module), "").split() or name in _OTHERS:
        return True
    return not _is_of_python(module) and module not in _PROGRAMS and _REBUILDS.fullmatch(symbol) is not None


def _is_attribute_of_one(name: str, args: tuple[object, ...]) -> bool:
    """``getattr(an instance, "method")``, ``getattr(an enumeration, "NAME")``, ``partial(a function of a library)``."""
    if name not in _ATTRIBUTES or not args:
        return False
    owner = args[0]
    if not isinstance(owner, Global) or name != "functools partial":
        return isinstance(owner, Opaque) or (isinstance(owner, Global) and _is_unknown_class(owner.name))
    return not _is_of_python(owner.name.partition(" ")[0]) or _is_value(owner.name)
