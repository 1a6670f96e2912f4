"""The child process: each file as the program that wrote it loads it, as a digest of each tensor.

`python -m tests.wild.loaders` takes a JSON list of [path, names] and answers a list of {name: digest}, or a text that
says why it could not be loaded. Classes that a pickle names are real where they are of PyTorch, NumPy or Python
itself; others, and those of modules, are stand-ins that keep their state, so that no code of the packages is run.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

#: Modules whose building runs the forward code of a package, or needs its classes.
_STAND_INS = ("torch.nn.modules", "torch.fx")
_REAL = ("torch", "numpy", "collections", "builtins", "_codecs", "copyreg", "copy_reg", "__builtin__")
#: How `torch.save` began before 1.6: a pickle of this number.
_TORCH_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_SCALARS = frozenset((int, float, str, bytes, bool, type(None)))
Tensors = Iterator[tuple[str, Any]]


class StandIn:
    """An object of a class that is not imported: what its constructor was given, and its state."""

    def __init__(self, *values: object) -> None:
        self.values = list(values)

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def append(self, value: object) -> None:
        self.values.append(value)


class Unpickler(pickle.Unpickler):
    """The real one, which imports nothing of the packages."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in _REAL and not module.startswith(_STAND_INS):
            return super().find_class(module, name)
        return type(name, (StandIn,), {"__module__": module})


def digest(array: Any) -> str:
    """dtype, shape and a hash of the bytes in C order, of an array of NumPy or a tensor of PyTorch."""
    if hasattr(array, "detach"):
        import torch

        dtype, shape = str(array.dtype).removeprefix("torch."), tuple(array.shape)
        flat = array.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    else:
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("="))
        dtype, shape, data = array.dtype.name, array.shape, array.tobytes()
    return f"{dtype}{list(shape)} {hashlib.blake2b(data, digest_size=16).hexdigest()}"


def flattened(value: Any, path: str = "", above: tuple[int, ...] = ()) -> Tensors:
    """Every tensor in nested containers, modules and other objects."""
    if id(value) in above:
        return
    if hasattr(value, "detach") or isinstance(value, (np.ndarray, np.generic)):
        if hasattr(value, "detach") or value.dtype.kind in "biufcV":
            yield path or "0", value
        elif getattr(value, "ndim", 1) == 0 or value.dtype.kind == "O":
            yield from flattened(value.item() if value.ndim == 0 else value.tolist(), path, above)
        return
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    if hasattr(value, "__dict__") and not isinstance(value, (type, types.FunctionType)):
        items = [*items, *vars(value).items()]
    for key, item in items:
        if type(item) in _SCALARS:  # millions of them in the data of some packages
            continue
        inner = path if key in ("_modules", "_parameters", "_buffers") else f"{path}/{key}" if path else str(key)
        yield from flattened(item, inner, (*above, id(value)))


def _torch(path: Path, names: list[str]) -> Tensors:
    import torch

    if zipfile.is_zipfile(path) and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        module = torch.jit.load(path, "cpu")
        state = module.state_dict()
        yield from state.items()
        for name in names:  # tensors that are attributes and no parameters
            if name not in state and isinstance(value := reduce(getattr, name.split("."), module), torch.Tensor):
                yield name, value
        return
    real = types.ModuleType("pickles")
    real.Unpickler, real.load = Unpickler, lambda file, **options: Unpickler(file, **options).load()  # type: ignore[attr-defined]
    yield from flattened(torch.load(path, "cpu", pickle_module=real, weights_only=False))


def _pickle(path: Path, names: list[str]) -> Tensors:
    with path.open("rb") as file:
        if file.read(len(_TORCH_LEGACY)).startswith((_TORCH_LEGACY, b"PK")):
            yield from _torch(path, names)
            return
        file.seek(0)
        yield from flattened(Unpickler(file, encoding="latin-1").load())


def _hdf5(path: Path, names: list[str]) -> Tensors:
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    yield from ((name, value) for name, value in found.items() if isinstance(value, (np.ndarray, np.generic)))


def _numpy(path: Path, names: list[str]) -> Tensors:
    if zipfile.is_zipfile(path):
        yield from np.load(path, allow_pickle=True).items()
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        arrays = []
        while file.tell() < size:  # Equinox writes one behind the other
            arrays.append(np.load(file, allow_pickle=True))
    yield from flattened(arrays[0] if len(arrays) == 1 else arrays)


def _safetensors(path: Path, names: list[str]) -> Tensors:
    from safetensors.torch import load_file

    yield from load_file(path).items()


def _flax(path: Path, names: list[str]) -> Tensors:
    from flax.serialization import msgpack_restore

    yield from flattened(msgpack_restore(path.read_bytes()))


def _tensorflow(path: Path, names: list[str]) -> Tensors:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path / "variables" / "variables" if path.is_dir() else path))
    for name in reader.get_variable_to_shape_map():
        if reader.get_variable_to_dtype_map()[name] != tf.string:
            yield name, reader.get_tensor(name)


_LOADERS: Mapping[str, Callable[[Path, list[str]], Tensors]] = {
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".jit", ".sav", ".tar"), _torch),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), _pickle),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), _hdf5),
    **dict.fromkeys((".npz", ".npy", ".eqx"), _numpy),
    ".safetensors": _safetensors,
    ".mpk": _flax,
}


def loaded(path: Path, names: list[str]) -> dict[str, str]:
    """Name -> digest, by the real loader. Raises whatever it raises, ValueError where there is none."""
    load = _tensorflow if path.is_dir() or not path.exists() else _LOADERS.get(path.suffix)
    if load is None:
        raise ValueError("no loader")
    return {name: digest(value) for name, value in load(path, names)}


def main() -> None:
    answers: list[dict[str, str] | str] = []
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for path, names in json.load(sys.stdin):
        try:
            answers.append(loaded(Path(path), names))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    json.dump(answers, out)


if __name__ == "__main__":
    main()
