"""Models that Hugging Face keeps in three frameworks, moved by this program and by its own converters.

    make huggingface        # writes docs/hugging_face.md

A PyTorch model gets random weights; the library's own converters make the TensorFlow and the Flax form. From the file
of each form this program fills the file of each other form, the library loads it, and the outputs are compared with
those of the form that its own converter made. Right is an equal output and no key missing; refused is an error; the
rest is silently wrong.
"""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import torch
import transformers

from benchmarks.hugging_face_models import MODELS, Model, inputs

PAGE = Path(__file__).parent.parent / "docs" / "hugging_face.md"
FILES = {"torch": "model.safetensors", "tensorflow": "tf_model.h5", "flax": "flax_model.msgpack"}
PREFIXES = {"torch": "", "tensorflow": "TF", "flax": "Flax"}
PAIRS = list(permutations(FILES, 2))
PACKAGES = ("transformers", "torch", "tensorflow-cpu", "jax", "flax")
RIGHT, REFUSED, WRONG, NONE = "right", "refused", "wrong", ""
#: Keys that the library itself leaves out of every conversion.
COUNTERS = ("num_batches_tracked", "flatten", "dropout")
#: Of an output, against its largest number.
TOLERANCE = 1e-5
HEAD = """# Beside the converters of Hugging Face

Written by `make huggingface` ({versions}).

These models exist in PyTorch and in TensorFlow, Flax or both, with converters of the library's own. A small PyTorch
model with random weights is the source; the library makes the other two forms of it. From the file of each form this
program fills the file of each other form (`convert 'torch->flax' FILE --like FILE`), the library loads it, and the
output is compared with that of the form which its own converter made. *Right* is an equal output (relative error
{tolerance:g}) with no key missing, *refused* an error, *wrong* the rest; nothing stands where the library has no such
form, or cannot run it. Options are those that the errors ask for.

"""
TAIL = """
What is refused: an output layer, or a second bias, that one form stores and the other ties to another tensor or lacks
(ALBERT, XGLM, MPNet, RemBERT, XLM, CTRL); layers of the library's own that are of no known kind, whose layout a file
does not tell (ConvNeXt V2, MobileBERT, ConvBERT); parameters with a dot in their name (DeBERTa). The error names the
layer.
"""


def random_model(model: Model, name: str) -> Any:
    """Every parameter that is learned, and every running statistic, is random."""
    net = getattr(transformers, model.stem + name)(model.config)
    torch.manual_seed(len(model.stem + name))
    with torch.no_grad():
        for key, value in net.named_parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape) * 0.2 + (0.5 if "orm" in key and key.endswith("weight") else 0))
        for key, value in net.named_buffers():
            if key.endswith("running_mean"):
                value.copy_(torch.randn(value.shape) * 0.3)
            if key.endswith("running_var"):
                value.copy_(torch.rand(value.shape) + 0.5)
    return net


def output(framework: str, net: Any, given: Mapping[str, np.ndarray]) -> np.ndarray:
    if framework == "torch":
        with torch.no_grad():
            made = net.eval()(**{key: torch.tensor(value) for key, value in given.items()}, return_dict=True)
    elif framework == "tensorflow":
        made = net(**{key: tf.constant(value) for key, value in given.items()}, return_dict=True, training=False)
    else:
        made = net(**given, return_dict=True)
    return np.asarray(next(value for value in made.to_tuple() if hasattr(value, "shape")))


def loaded(framework: str, stem: str, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """The library's model, and the keys that it missed in the file; Flax itself refuses to miss one."""
    which = getattr(transformers, PREFIXES[framework] + stem)
    if framework == "flax":
        return which.from_pretrained(folder, **options), []
    net, told = which.from_pretrained(folder, output_loading_info=True, **options)
    return net, [key for key in told["missing_keys"] if not any(counter in key for counter in COUNTERS)]


def forms(model: Model, name: str, given: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """The files of all forms that the library can make and run, and their outputs."""
    stem = model.stem + name
    random_model(model, name).save_pretrained(folder / "torch")
    outputs = {"torch": output("torch", loaded("torch", stem, folder / "torch")[0], given)}
    for framework in ("tensorflow", "flax"):
        try:
            net, _ = loaded(framework, stem, folder / "torch", from_pt=True)
            outputs[framework] = output(framework, net, given)
            net.save_pretrained(folder / framework, safe_serialization=False)
        except Exception as error:  # a form that it lacks, or that its own code fails in
            print(f"{PREFIXES[framework]}{stem}: {type(error).__name__}", file=sys.stderr)
    return outputs


def judged(
    program: str, model: Model, name: str, pair: tuple[str, str], folder: Path, wanted: np.ndarray, given
) -> str:
    source, target = pair
    place = folder / "-".join(pair)
    place.mkdir()
    shutil.copy(folder / target / "config.json", place)
    options = [*model.options.get("", ()), *(model.options.get(f"from {source}", ()))]
    options += model.options.get(f"to {target}", ())
    command = [program, "->".join(pair), folder / source / FILES[source], "--like", folder / target / FILES[target]]
    done = subprocess.run(
        [*command, "-o", place / FILES[target], *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return REFUSED
    net, missing = loaded(target, model.stem + name, place)
    error = np.abs(output(target, net, given) - wanted).max() / np.abs(wanted).max()
    return RIGHT if error <= TOLERANCE and not missing else WRONG


def row(program: str, model: Model, name: str) -> list[str]:
    """What came of every pair of frameworks."""
    given = inputs(model, np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wanted = forms(model, name, given, folder)
        return [
            judged(program, model, name, (a, b), folder, wanted[b], given) if {a, b} <= wanted.keys() else NONE
            for a, b in PAIRS
        ]


def main(program: str) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    lines = ["| model | " + " | ".join(f"{a} → {b}" for a, b in PAIRS) + " | options |"]
    lines += ["|---|" + ":-:|" * len(PAIRS) + "---|"]
    counts: Counter[str] = Counter()
    for model in MODELS:
        options = ", ".join(f"`{option[0]} '{option[1]}'`" for option in model.options.values())
        for name in model.names:
            cells = row(program, model, name)
            counts.update(cells)
            lines.append(f"| {model.stem}{name} | {' | '.join(cells)} | {options} |")
            print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    total = f"\n{counts[RIGHT]} right, {counts[REFUSED]} refused, {counts[WRONG]} wrong.\n"
    PAGE.write_text(HEAD.format(versions=versions, tolerance=TOLERANCE) + "\n".join(lines) + "\n" + total + TAIL)


if __name__ == "__main__":
    main(sys.argv[1])
