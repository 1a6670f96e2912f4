"""MXNet 1.9.1 in one process with the other three frameworks, on the NumPy that they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

FRAMEWORKS = {
    "mxnet": "import converter.mxnet_numpy2, mxnet; from mxnet import npx; npx.set_np()",
    "torch": "import torch",
    "tensorflow": "import tensorflow",
    "jax": "import jax",
}
COMPUTE = """
import sys, numpy as np
a = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
expected = a @ a
found = [
    mxnet.np.dot(mxnet.np.array(a), mxnet.np.array(a)).asnumpy(),
    (torch.from_numpy(a) @ torch.from_numpy(a)).numpy(),
    tensorflow.matmul(a, a).numpy(),
    np.asarray(jax.numpy.dot(a, a)),
]
assert all(np.allclose(one, expected, rtol=1e-5) for one in found)
layer = mxnet.gluon.nn.Dense(3, in_units=4)
layer.initialize()
layer.save_parameters(sys.argv[1])
back = npx.load(sys.argv[1])
assert (back["weight"].asnumpy() == layer.weight.data().asnumpy()).all()
assert np.array_equal(mxnet.np.pad(mxnet.np.array(a), ((1, 1), (0, 0)), "constant").shape, (6, 4))
print("done")
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_four_frameworks_compute_in_one_process(tmp_path: Path) -> None:
    """In another order than in the process of the tests, where MXNet comes first."""
    code = "\n".join(FRAMEWORKS[name] for name in ("jax", "torch", "tensorflow", "mxnet")) + COMPUTE
    assert run(code, str(tmp_path / "dense.params")).endswith("done\n")


def test_only_the_missing_names_are_added_and_only_once() -> None:
    out = run(
        "import numpy as np, converter\n"
        "before = dict(vars(np))\n"
        "import converter.mxnet_numpy2 as shim\n"
        "added = set(vars(np)) - set(before)\n"
        "assert added <= {*shim.REPLACEMENTS, *shim.GONE}, added\n"
        "assert all(vars(np)[name] is value for name, value in before.items())\n"
        "after = dict(vars(np))\n"
        "assert shim.restore() == ()\n"
        "assert dict(vars(np)) == after\n"
        "print(len(added))"
    )
    assert int(out) > 20 or np.__version__.startswith("1.")


def test_the_names_mean_what_they_meant_and_the_gone_ones_say_so() -> None:
    out = run(
        "import warnings; warnings.simplefilter('ignore')\n"
        "import numpy as np\n"
        "import converter.mxnet_numpy2\n"
        "a = np.array([[3, 1], [0, 2]])\n"
        "assert np.msort(a).tolist() == [[0, 1], [3, 2]] and np.alltrue([1, 1]) and not np.alltrue([1, 0])\n"
        "assert np.in1d([1, 5], [5]).tolist() == [False, True] and np.product([2, 3]) == 6\n"
        "assert np.trapz([1.0, 3.0]) == 2.0 and np.signbit(np.NZERO) and not np.signbit(np.PZERO)\n"
        "assert np.NINF < 0 < np.PINF and np.isnan(np.NaN) and np.dtype(np.bool) == np.bool_\n"
        "try: np.npv(0.1, [1])\n"
        "except NotImplementedError as error: print(error)"
    )
    assert out == "numpy.npv was removed from NumPy; this stand-in only lets MXNet be imported\n"
