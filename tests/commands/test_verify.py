"""`converter verify`: two files of any frameworks, and certificates."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

import converter
from converter.core.differences import errors
from converter.core.transposing import digest
from tests.chapter import PAIRS, random_weights
from tests.chapter import SIDES as CHAPTER
from tests.command import Result, ok, refused, run
from tests.parity.flatten_cases import CASES as FLATTEN
from tests.parity.recurrent_cases import CASES as RECURRENT
from tests.parity.sides import SIDES

Print = pytest.CaptureFixture[str]


def saved(side: str, folder: Path, change: tuple[str, tuple[int, ...], float] | None = None) -> Path:
    """The chapter's MLP of one set of random weights, saved by that framework; one number of it changed."""
    weights = random_weights(1)
    if change:
        name, place, by = change
        weights[name][place] += by
    folder.mkdir(exist_ok=True)
    path = folder / CHAPTER[side].file
    CHAPTER[side].save(CHAPTER[side].make(weights), path)
    return path


def different(capsys: Print, *args: object) -> Result:
    result = run(capsys, "verify", *args)
    assert result.code == 1 and result.err == "", result
    return result


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_files_of_one_net_in_two_frameworks(tmp_path: Path, capsys: Print, a: str, b: str) -> None:
    source, target = saved(a, tmp_path / "a"), saved(b, tmp_path / "b")
    said = ok(capsys, "verify", source, target, "--schema", "mlp")
    assert said == f"{source} and {target} hold the same weights: 4 tensors are equal bit for bit\n"
    other = saved(b, tmp_path / "other", ("output.weight", (3, 7), 0.5))
    said = different(capsys, source, other, "--schema", "mlp").out
    assert f"{source} and {other} are different: 1 of 4 tensors differ" in said
    found = json.loads(different(capsys, source, other, "--schema", "mlp", "--json").out)
    assert [tensor["role"] for tensor in found["tensors"]].count("weight") == 2
    (tensor,) = [tensor for tensor in found["tensors"] if not tensor["same"]]
    assert tensor["shape"] == [10, 256] and tensor["absolute"] == pytest.approx(0.5, rel=1e-6)
    scale = np.abs(random_weights(1)["output.weight"]).max()
    assert tensor["relative"] == pytest.approx(0.5 / scale, rel=1e-6)


def test_hashes_are_of_neutral_bytes_whatever_the_framework(tmp_path: Path) -> None:
    files = {side: saved(side, tmp_path / side) for side in CHAPTER}
    hashes = set()
    for side, path in files.items():
        found = converter.verify(files["torch"], path, schema="mlp")
        assert found.ok, (side, str(found))
        hashes.add(tuple(sorted(tensor.hashes for tensor in found.tensors)))
    assert len(hashes) == 1
    weight = random_weights(1)["hidden.weight"]
    (found_weight,) = [t for t in found.tensors if (t.layer, t.role) == ("hidden", "weight")]
    assert found_weight.hashes == (digest(weight), digest(np.asfortranarray(weight)))


def test_names_that_differ_are_mapped_or_refused(tmp_path: Path, capsys: Print) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 5))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    renamed = {name.replace("0.", "red.").replace("1.", "blue."): value for name, value in net.state_dict().items()}
    torch.save(renamed, tmp_path / "b.pt")
    said = refused(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt")
    assert "Say --map 0=red or --map 1=red." in said and str(tmp_path / "b.pt") in said
    ok(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt", "--map", "0=red", "--map", "1=blue")
    crossed = different(capsys, tmp_path / "a.pt", tmp_path / "b.pt", "--map", "0=blue", "--map", "1=red").out
    assert "4 of 4 tensors differ" in crossed


def test_another_net_is_refused_with_its_shapes(tmp_path: Path, capsys: Print) -> None:
    torch.save(torch.nn.Linear(5, 4).state_dict(), tmp_path / "a.pt")
    torch.save(torch.nn.Linear(5, 3).state_dict(), tmp_path / "b.pt")
    assert "(4, 5)" in refused(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt")
    assert "missing.pt" in refused(capsys, "verify", tmp_path / "a.pt", tmp_path / "missing.pt")


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A torch LSTM (two biases), and what Keras (their sum) has of it."""
    folder = tmp_path_factory.mktemp("lstm")
    case = next(case for case in RECURRENT if "lstm" in case.name and {"torch", "keras"} <= case.nets.keys())
    torch_net, keras_net = case.random("torch", 1), case.random("keras", 2)
    SIDES["torch"].save(torch_net, folder / "lstm.pt")
    SIDES["keras"].save(converter.load_into(keras_net, folder / "lstm.pt"), folder / "lstm.weights.h5")
    name = next(name for name in torch_net.state_dict() if "bias_ih" in name)
    for file, by in (("moved", 0.0), ("other", 0.25)):
        state = {key: value.clone() for key, value in torch_net.state_dict().items()}
        # halves of sixteenths, so that every sum is exact
        for bias in (name, name.replace("bias_ih", "bias_hh")):
            state[bias] = torch.round(state[bias] * 16) / 16
        torch.save(state, folder / "exact.pt")
        state[name] += 0.5
        state[name.replace("bias_ih", "bias_hh")] += by - 0.5
        torch.save(state, folder / f"{file}.pt")
    SIDES["keras"].save(converter.load_into(keras_net, folder / "exact.pt"), folder / "exact.weights.h5")
    return {file.name: file for file in folder.iterdir()}


def test_sums_of_biases_are_compared_as_sums(lstm: dict[str, Path]) -> None:
    torch_file, keras_file = lstm["lstm.pt"], lstm["lstm.weights.h5"]
    for a, b in ((torch_file, keras_file), (keras_file, torch_file)):
        found = converter.verify(a, b)
        assert found.ok, str(found)
        summed = [tensor for tensor in found.tensors if "+" in tensor.role]
        assert len(summed) == 4
        two = [(t.source if a is torch_file else t.target) for t in summed]
        assert all(len(names) == 2 and "bias_ih" in names[0] and "bias_hh" in names[1] for names in two)
    assert not converter.verify(torch_file, lstm["moved.pt"]).ok  # two biases against two


def test_a_bias_that_moved_from_one_summand_to_the_other_is_the_same_and_a_changed_sum_is_not(
    lstm: dict[str, Path],
) -> None:
    for swap in (False, True):
        for file, same in (("moved.pt", True), ("other.pt", False)):
            files = (lstm[file], lstm["exact.weights.h5"])
            found = converter.verify(*(files[::-1] if swap else files))
            assert found.ok == same, str(found)
            wrong = [tensor for tensor in found.tensors if not tensor.same]
            assert all("+" in t.role and t.absolute == pytest.approx(0.25) for t in wrong)
            assert bool(wrong) != same


def test_the_flatten_is_accounted_for(tmp_path: Path) -> None:
    case = next(case for case in FLATTEN if {"torch", "linen"} <= case.nets.keys() and not case.options)
    SIDES["torch"].save(case.random("torch", 1), tmp_path / "net.pt")
    SIDES["linen"].save(case.random("linen", 2), tmp_path / "clone.msgpack")
    converter.convert("torch->flax", tmp_path / "net.pt", tmp_path / "net.msgpack", like=tmp_path / "clone.msgpack")
    assert converter.verify(tmp_path / "net.pt", tmp_path / "net.msgpack").ok
    assert converter.verify(tmp_path / "net.msgpack", tmp_path / "net.pt").ok
    found = converter.verify(tmp_path / "net.pt", tmp_path / "net.msgpack", flatten_fix=False)
    assert [tensor.role for tensor in found.tensors if not tensor.same] == ["weight"]


def test_another_dtype_counts_as_cast_and_what_does_not_fit_differs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "a.bias": rng.normal(size=3).astype(np.float32)}
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        narrow = {name: value.astype(dtype) for name, value in wide.items()}
        save(wide, tmp_path / "wide.safetensors"), save(narrow, tmp_path / "narrow.safetensors")
        assert converter.verify(
            tmp_path / "wide.safetensors",
            tmp_path / "narrow.safetensors",
            source_framework="torch",
            target_framework="torch",
        ).ok
    large = {**wide, "a.bias": np.array([1, 1e38, 2], np.float32)}
    (
        save(large, tmp_path / "wide.safetensors"),
        save({n: v.astype(np.float16) for n, v in wide.items()}, tmp_path / "b.safetensors"),
    )
    found = converter.verify(
        tmp_path / "wide.safetensors", tmp_path / "b.safetensors", source_framework="torch", target_framework="torch"
    )
    assert [(t.role, t.absolute) for t in found.tensors if not t.same] == [("bias", np.inf)]


def save(tensors: dict[str, Any], path: Path) -> None:
    safetensors.numpy.save_file(tensors, path)


def test_what_is_left_out_is_listed(tmp_path: Path, capsys: Print) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    torch.save(
        {name: value for name, value in net.state_dict().items() if "num_batches" not in name}, tmp_path / "b.pt"
    )
    found = json.loads(ok(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt", "--json"))
    assert [item["name"] for item in found["left_out"]["source"]] == ["0.num_batches_tracked"]
    assert found["left_out"]["target"] == [] and found["ok"] is True and found["compared"] == "weights"
    torch.save({name: value for name, value in net.state_dict().items() if name.startswith("1.")}, tmp_path / "b.pt")
    assert "'0'" in refused(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt")
    ok(capsys, "verify", tmp_path / "a.pt", tmp_path / "b.pt", "--ignore", "0")


def test_a_zero_of_the_other_sign_is_another_tensor_without_a_difference() -> None:
    a, b = np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32)
    assert digest(a) != digest(b) and errors(a, b) == (0.0, 0.0)
    nan = np.array([np.nan, 1.0], np.float32)
    assert errors(nan, nan) == (0.0, 0.0) and errors(nan, a)[0] == np.inf
    big = np.random.default_rng(0).normal(size=(5000, 1000)).astype(np.float32)  # several chunks
    other = big.copy()
    other[4999, 999] += 2
    assert errors(big, other)[0] == pytest.approx(2, rel=1e-6)
    assert digest(big.T) == digest(np.ascontiguousarray(big.T)) != digest(big)


# -- certificates ---------------------------------------------------------------------------------------------------

#: Every way in which a conversion is asked for: direction, source, further words, by the ending of the output.
WAYS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "flax.msgpack": ("torch->flax", "torch", ()),
    "keras.weights.h5": ("torch->tensorflow", "torch", ("--schema", "mlp")),
    "tf.ckpt": ("torch->tensorflow", "torch", ("--map", "output=out")),
    "mx.params": ("flax->mxnet", "flax", ()),
    "net.pt": ("tensorflow->torch", "tensorflow", ("--schema", "mlp")),
    "neutral.safetensors": ("mxnet->neutral", "mxnet", ()),
    "net.npz": ("torch->flax", "torch", ()),
    "net.orbax": ("torch->flax", "torch", ()),
    "shards.safetensors.index.json": ("torch->torch", "torch", ("--max-shard-size", "10KB")),
    "like.msgpack": ("torch->flax", "torch", ("--like", "clone.msgpack")),
    "own.pt": ("torch->torch", "torch", ("--schema", "own.yaml")),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    CHAPTER["flax"].save(CHAPTER["flax"].make(random_weights(9)), tmp_path / "clone.msgpack")
    (tmp_path / "own.yaml").write_text(
        "name: own\nlayers:\n  - {path: hidden, kind: linear}\n  - {path: output, kind: linear}\n"
    )
    return tmp_path


def certified(capsys: Print, way: str, here: Path) -> str:
    direction, side, words = WAYS[way]
    source = saved(side, here / "given").relative_to(here)
    ok(capsys, direction, source, "-o", way, *words, "--certificate", "cert.json")
    return (here / "cert.json").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_a_certificate_holds_wherever_the_folder_goes(here: Path, capsys: Print, way: str) -> None:
    text = certified(capsys, way, here)
    assert str(here) not in text and str(here.parent) not in text and os.sep + "tmp" not in text
    said = ok(capsys, "verify", "cert.json")
    assert "cert.json holds" in said and "the same 4 tensors again" in said
    certificate = json.loads(text)
    assert set(certificate["versions"]) >= {"converter", "numpy"}
    for step in certificate["plan"]:
        assert step["done"] and step["reason"] and len(step["xxh3_128"]) == 32
    moved = here.parent / f"{here.name}-moved"
    shutil.copytree(here, moved)
    os.chdir("/")
    found = json.loads(ok(capsys, "verify", moved / "cert.json", "--json"))
    assert found["compared"] == "certificate"
    assert found["ok"] is True and found["tensors"] == 4 and found["problems"] == []


def test_the_same_conversion_gives_the_same_certificate(here: Path, capsys: Print) -> None:
    first = certified(capsys, "like.msgpack", here)
    said = refused(capsys, "torch->flax", "given/mlp.params", "-o", "new.msgpack", "--certificate", "cert.json")
    assert "cert.json: exists already; choose another path. --force replaces it." in said
    assert not (here / "new.msgpack").exists()
    words = ("-o", "like.msgpack", "--like", "clone.msgpack", "--certificate", "cert.json", "--force")
    ok(capsys, "torch->flax", "given/mlp.params", *words, "--workers", 2, "--memory", "1MB")
    assert (here / "cert.json").read_text() == first
    said = refused(capsys, "torch->flax", "given/mlp.params", "-o", "n.msgpack", "--certificate", "n.json", "--dry-run")
    assert "a dry run writes nothing that a certificate could certify" in said


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def changed_weights(path: Path) -> None:
    """A whole file of another weight: nothing but its numbers tells."""
    state = torch.load(path, weights_only=True)
    state["hidden.bias"][5] += 1
    torch.save(state, path)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "source bit": (
        lambda here: flipped(here / "given/mlp.params", -200),
        "source: given/mlp.params was changed: its xxh3-128",
    ),
    "source weight": (
        lambda here: changed_weights(here / "given/mlp.params"),
        "'params/hidden/bias' is not what the plan",
    ),
    "target bit": (
        lambda here: flipped(here / "like.msgpack", -300),
        "target: like.msgpack was changed: its sha256 is",
    ),
    "target tensor": (lambda here: flipped(here / "like.msgpack", -300), "is not what the plan makes of the source"),
    "target cut": (
        lambda here: (here / "like.msgpack").write_bytes((here / "like.msgpack").read_bytes()[:-9]),
        "target: like.msgpack has ",
    ),
    "source gone": (lambda here: (here / "given/mlp.params").unlink(), "source: given/mlp.params is not there"),
    "target gone": (lambda here: (here / "like.msgpack").unlink(), "target: like.msgpack is not there"),
    "clone changed": (lambda here: flipped(here / "clone.msgpack", -9), "named file: clone.msgpack was changed"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_file_that_was_changed_is_named(here: Path, capsys: Print, what: str) -> None:
    certified(capsys, "like.msgpack", here)
    tamper, message = TAMPERED[what]
    tamper(here)
    result = run(capsys, "verify", "cert.json")
    assert result.code == 1 and "Traceback" not in result.err
    assert message in result.out and "cert.json does not hold: " in result.out


def edited(here: Path, change: Callable[[dict[str, Any]], object], seal: bool) -> None:
    """Change the certificate; with ``seal`` as someone does who knows how the seal is made."""
    from hashlib import sha256

    document = json.loads((here / "cert.json").read_text())
    change(document)
    if seal:
        plain = json.dumps({**document, "seal": ""}, sort_keys=True)
        document["seal"] = sha256(plain.encode()).hexdigest()
    (here / "cert.json").write_text(json.dumps(document))


def test_a_seal_can_be_made_anew_and_then_holds(here: Path, capsys: Print) -> None:
    certified(capsys, "like.msgpack", here)
    edited(here, lambda document: None, seal=True)
    ok(capsys, "verify", "cert.json")


EDITED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "op": (lambda d: d["plan"][0].update(ops=[]), "plan: ops of 'params/hidden/"),
    "reason": (lambda d: d["plan"][0].update(reason="position"), "plan: reason of"),
    "hash": (lambda d: d["plan"][1].update(xxh3_128="0" * 32), "plan: xxh3_128 of"),
    "step gone": (lambda d: d["plan"].pop(), "is made, and was not"),
    "step more": (lambda d: d["plan"].append({**d["plan"][0], "target": "more"}), "plan: 'more' is not made any more"),
    "left out": (lambda d: d["left_out"].append({"name": "x", "reason": "y"}), "plan: 0 entries are left out"),
    "file hash": (
        lambda d: d["target"]["files"][0].update(sha256="0" * 64),
        "target: like.msgpack was changed: its sha256",
    ),
    "option": (lambda d: d["options"].update(colour="red"), "it has options that this version does not know: colour"),
    "direction": (lambda d: d["options"].update(direction="torch->mxnet"), "the conversion cannot be repeated: "),
    "option no text": (lambda d: d["options"].update(schema=7), "the conversion cannot be repeated: "),
    "option of another type": (lambda d: d["options"].update(map=3), "the conversion cannot be repeated: "),
}


@pytest.mark.parametrize("what", EDITED)
def test_a_certificate_that_was_changed_is_found_out_even_with_a_new_seal(here: Path, capsys: Print, what: str) -> None:
    certified(capsys, "like.msgpack", here)
    change, message = EDITED[what]
    edited(here, change, seal=False)
    result = run(capsys, "verify", "cert.json")
    assert result.code == 1 and "cert.json: the certificate was changed after it was written" in result.out
    certified_again = json.loads((here / "cert.json").read_text())
    assert certified_again
    edited(here, lambda document: None, seal=True)
    result = run(capsys, "verify", "cert.json")
    assert result.code == 1 and "Traceback" not in result.err, result
    assert "after it was written" not in result.out and message in result.out, result.out


def test_other_versions_are_noted_and_do_no_harm(here: Path, capsys: Print) -> None:
    certified(capsys, "like.msgpack", here)
    edited(here, lambda document: document["versions"].update(numpy="1.0.0"), seal=True)
    said = ok(capsys, "verify", "cert.json")
    assert f"note: numpy is {np.__version__} here, and was 1.0.0" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cert.json: no certificate of a conversion"),
        (b"{}", "cert.json: no certificate of a conversion: Object missing required field"),
        (b'{"certificate": 2}', "cert.json: no certificate of a conversion: Invalid enum value 2"),
        (b"\xff\xfe\x00", "cert.json: no certificate of a conversion"),
        (None, "cert.json: the file cannot be opened: No such file or directory"),
    ],
)
def test_what_is_no_certificate(here: Path, capsys: Print, content: bytes | None, message: str) -> None:
    if content is not None:
        (here / "cert.json").write_bytes(content)
    assert message in refused(capsys, "verify", "cert.json")


def test_a_certificate_takes_no_options(here: Path, capsys: Print) -> None:
    certified(capsys, "like.msgpack", here)
    assert "a certificate alone takes no options" in refused(capsys, "verify", "cert.json", "--schema", "mlp", code=2)


def test_a_list_that_is_stacked_into_one_array(here: Path, capsys: Print) -> None:
    rows = [torch.randn(4), torch.randn(4)]
    torch.save(rows, here / "list.pt")
    ok(capsys, "torch->flax", "list.pt", "-o", "list.npy", "--certificate", "cert.json")
    assert "the same 2 tensors again" in ok(capsys, "verify", "cert.json")
