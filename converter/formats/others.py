"""Extensions of what is no format here, and what they stand for: such a file is neither read nor written."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["OTHER_EXTENSIONS", "other_extension"]

_ARCHIVE, _TEXT, _PICKLE = "an archive", "a text", "a pickle"

#: In lower case.
OTHER_EXTENSIONS: Mapping[str, str] = {
    ".ggml": "GGML of llama.cpp",
    ".onnx": "ONNX",
    ".ort": "ONNX Runtime",
    ".tflite": "TensorFlow Lite",
    ".pb": "a frozen graph of TensorFlow",
    ".index": "the index of a TensorFlow checkpoint, which is named by its prefix",
    ".caffemodel": "Caffe",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".mlmodelc": "Core ML",
    ".pdparams": "PaddlePaddle",
    ".pdopt": "PaddlePaddle",
    ".pdmodel": "PaddlePaddle",
    ".pdiparams": "PaddlePaddle",
    ".mnn": "MNN",
    ".ncnn": "ncnn",
    ".rknn": "RKNN",
    ".om": "Ascend",
    ".engine": "TensorRT",
    ".trt": "TensorRT",
    ".xml": "OpenVINO",
    ".dlc": "Qualcomm's DLC",
    ".cntk": "CNTK",
    ".nemo": "an archive of NeMo",
    ".mar": "an archive of TorchServe",
    ".pt2": "a PyTorch exported program",
    ".ptl": "PyTorch Mobile",
    ".pte": "ExecuTorch",
    ".torchscript": "TorchScript",
    ".distcp": "a part of a PyTorch distributed checkpoint",
    ".eqx": "Equinox",
    ".llamafile": "llamafile",
    ".zarr": "zarr",
    ".mat": "MATLAB",
    ".rds": "R",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".pkl": _PICKLE,
    ".pickle": _PICKLE,
    ".joblib": _PICKLE,
    ".dill": _PICKLE,
    ".zip": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".gz": _ARCHIVE,
    ".bz2": _ARCHIVE,
    ".xz": _ARCHIVE,
    ".zst": _ARCHIVE,
    ".7z": _ARCHIVE,
    ".rar": _ARCHIVE,
    ".json": _TEXT,
    ".yaml": _TEXT,
    ".yml": _TEXT,
    ".txt": _TEXT,
    ".csv": _TEXT,
    ".md": _TEXT,
    ".py": _TEXT,
}


def other_extension(name: str) -> str:
    """The one of these that the name has; "" for none."""
    return next((extension for extension in OTHER_EXTENSIONS if name.lower().endswith(extension)), "")
