"""The first TorchScript archives, of PyTorch 1.0 to 1.3: ``model.json`` beside ``tensors/N``.

Later ones hold a ``data.pkl`` and are read by `torch.zip`. Upstream: ``caffe2/proto/torch.proto`` (ModelDef) of 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping

from converter.core.tensors import DTYPES, Array, DType
from converter.errors import FormatError
from converter.formats.base import Probe
from converter.formats.io.budget import Loan
from converter.formats.io.json import Document
from converter.formats.torch.objects import TorchReader
from converter.formats.torch.tensors import Storage, StridedTensor, TorchFile
from converter.formats.zip.members import ZipMembers

__all__ = ["FileReader", "ScriptModel", "detect"]

MAX_DEPTH = 100
#: ``TensorProto.DataType`` of ``caffe2/proto/caffe2.proto``.
_DTYPES: Mapping[object, DType] = {
    "FLOAT": DTYPES["float32"],
    "INT32": DTYPES["int32"],
    "BYTE": DTYPES["uint8"],
    "BOOL": DTYPES["bool"],
    "UINT8": DTYPES["uint8"],
    "INT8": DTYPES["int8"],
    "INT16": DTYPES["int16"],
    "INT64": DTYPES["int64"],
    "FLOAT16": DTYPES["float16"],
    "DOUBLE": DTYPES["float64"],
}


def detect(probe: Probe) -> bool:
    return any(name.endswith("/model.json") and name.count("/") == 1 for name in probe.entries)


class ScriptModel(TorchFile):
    """Parameters and buffers by attribute path."""

    def __init__(self, members: ZipMembers) -> None:
        self.zip = members
        self.path = members.path
        self.budget = members.source.budget
        models = [name for name in members.members if name.endswith("/model.json") and name.count("/") == 1]
        if len(models) != 1:
            raise FormatError(self.path, f"the archive has {len(models)} members 'model.json' in a folder, not one")
        self.folder = models[0].removesuffix("model.json")

    def load(self, loan: Loan) -> object:
        model = Document.parse(self.zip.read(self.folder + "model.json"), self.path, "model.json")
        producer, version = (model.get(key).value for key in ("producerName", "producerVersion"))
        self.writer = f"{producer} {version}"[:60] if producer and version else ""
        tensors = [self._tensor(item) for item in model.get("tensors").list()]
        tensors_by_name: dict[str, object] = {}
        pending = [("", model.get("mainModule"), 0)]
        while pending:
            prefix, module, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise module.error(f"a module at most {MAX_DEPTH} levels deep")
            for item in module.get("parameters").list():
                number = item.get("tensorId").count()
                if number >= len(tensors):
                    raise item.get("tensorId").error(f"one of {len(tensors)} tensors")
                tensors_by_name[prefix + item.get("name").text()] = tensors[number]
            inside = [(f"{prefix}{item.get('name').text()}.", item) for item in module.get("submodules").list()]
            pending += [(name, item, depth + 1) for name, item in reversed(inside)]
        return tensors_by_name

    def size(self, key: str) -> int:
        return self.zip.member(self.folder + key).size

    def raw(self, key: str, begin: int, length: int) -> Array:
        return self.zip.array(self.folder + key, begin, length)

    def close(self) -> None:
        self.zip.close()

    def _tensor(self, item: Document) -> StridedTensor:
        dtype = item.get("dataType").dtype(_DTYPES)
        shape, strides = item.get("dims").sizes(), item.get("strides").sizes()
        if len(shape) != len(strides):
            raise item.get("strides").error(f"{len(shape)} strides")
        key = item.get("data").get("key").text()
        storage = Storage(key, dtype, self.size(key) // dtype.itemsize)
        offset = item.get("offset")
        return StridedTensor(storage, dtype, 0 if offset.value is None else offset.count(), shape, strides)


class FileReader(TorchReader):
    """See `ScriptModel`."""

    dtypes = tuple({dtype.name: None for dtype in _DTYPES.values()})
    lazy = "tensor, or its zip member if packed"

    def open(self) -> TorchFile:
        return ZipMembers.opened(self.path, self.options.checksums, ScriptModel)
