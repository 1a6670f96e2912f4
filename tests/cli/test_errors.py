"""Errors are data: said in the language of the caller, as JSON for programs, and never a traceback."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter._version import __version__
from converter.commands import convert as command
from converter.errors import FLAGS, KEYWORDS, ConversionError, MatchError, Placeholder, Problem, Remedy, advice
from tests.cli.test_cli import flax_clone, write
from tests.command import ok, refused, run
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "mlp.params"
Print = pytest.CaptureFixture[str]


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mlp.params"))


# -- the two languages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remedy", "keyword", "flag"),
    [
        (Remedy("map", ("a", "b")), "map={'a': 'b'}", "--map a=b"),
        (Remedy("map", ("a b", "c*")), "map={'a b': 'c*'}", "--map 'a b=c*'"),
        (Remedy("heads", ("attention", Placeholder("N"))), "heads={'attention': N}", "--heads attention=N"),
        (Remedy("ignore", "x.*"), "ignore='x.*'", "--ignore 'x.*'"),
        (Remedy("allow_missing", "x"), "allow_missing='x'", "--allow-missing x"),
        (Remedy("force"), "force=True", "--force"),
        (Remedy("flatten_fix", False), "flatten_fix=False", "--no-flatten-fix"),
        (Remedy("output", Placeholder("PATH")), "output=PATH", "-o PATH"),
        (Remedy("workers", 2), "workers=2", "--workers 2"),
    ],
)
def test_a_remedy_in_both_languages(remedy: Remedy, keyword: str, flag: str) -> None:
    assert KEYWORDS(remedy) == keyword and FLAGS(remedy) == flag


def test_remedies_are_sentences() -> None:
    settle, leave = Remedy("map", ("a", "b")), Remedy("ignore", "a", "leaves it out")
    assert advice((settle,), FLAGS) == "Say --map a=b."
    assert advice((settle, Remedy("map", ("a", "c")), leave), FLAGS) == (
        "Say --map a=b or --map a=c. --ignore a leaves it out."
    )
    assert advice((leave,), KEYWORDS) == "ignore='a' leaves it out." and advice((), FLAGS) == ""


def test_one_error_in_both_languages() -> None:
    problem = Problem(
        "'a' can only be linear.", "kind", "a", remedies=(Remedy("force"),), about=Remedy("kind", ("a", "conv"))
    )
    error = ConversionError(problem)
    assert str(error) == "kind={'a': 'conv'}: 'a' can only be linear. Say force=True."
    assert error.said(FLAGS) == "--kind a=conv: 'a' can only be linear. Say --force."
    assert error.args == (str(error),)
    of_file = MatchError([problem, "another"]).of("m.pt")
    assert of_file.said(FLAGS) == "m.pt: --kind a=conv: 'a' can only be linear. Say --force.\nanother"
    assert of_file.problems[1] == Problem("another")


def test_an_error_as_data() -> None:
    problem = Problem(
        "'a' could be 'b'.",
        "ambiguous",
        "a",
        candidates=("b",),
        remedies=(Remedy("map", ("a", "b")),),
        about=Remedy("strict"),
    )
    document = json.loads(json.dumps(MatchError([problem]).to_dict(FLAGS)))
    assert document["error"] == "MatchError" and document["message"] == document["problems"][0]["said"]
    (data,) = document["problems"]
    assert (data["kind"], data["subject"], data["candidates"]) == ("ambiguous", "a", ["b"])
    assert data["remedies"] == [{"option": "map", "value": ["a", "b"], "effect": "", "said": "--map a=b"}]
    assert MatchError([problem]).to_dict()["problems"][0]["remedies"][0]["said"] == "map={'a': 'b'}"


def many_layers(folder: Path, names: list[str], extension: str) -> Path:
    """A file of as many square layers."""
    shape = (4, 4)
    spelled = "params/{}/kernel" if extension == ".msgpack" else "{}.weight"
    form = "flax-msgpack" if extension == ".msgpack" else "torch"
    rng = np.random.default_rng(len(names))
    return write(
        folder / f"n{len(names)}{extension}",
        form,
        {spelled.format(name): rng.normal(size=shape).astype(np.float32) for name in names},
    )


def test_layers_that_could_be_the_same_ones_are_one_question_and_all_of_them_are_in_the_data(
    tmp_path: Path, capsys: Print
) -> None:
    names = [f"block{'z' * (i + 1)}" for i in range(10)]
    source = many_layers(tmp_path, [f"layer{chr(97 + i)}" for i in range(10)], ".pt")
    clone = many_layers(tmp_path, names, ".msgpack")
    words = ("torch->flax", source, "--like", clone, "-o", tmp_path / "out.msgpack")
    said = refused(capsys, *words)
    failure = json.loads(run(capsys, *words, "--json").out)
    (problem,) = failure["problems"]
    assert len(said.splitlines()) == 1 and problem["said"] in said and " and 4 more of the clone could each be " in said
    assert sorted([problem["subject"], *problem["alike"]]) == names


# -- the command line -------------------------------------------------------------------------------------------------


def test_errors_are_json_on_stdout_where_json_is_asked_for(mlp: Path, capsys: Print) -> None:
    clone = flax_clone(mlp.parent / "clone.msgpack", inputs=30)
    result = run(capsys, "torch->flax", mlp, "--like", clone, "--json")
    assert result.code == 1 and result.err == ""
    failure = json.loads(result.out)
    assert failure["error"] == "MatchError" and failure["message"].startswith(f"{mlp}: 'hidden.weight' has shape")
    assert [problem["subject"] for problem in failure["problems"]] == ["hidden"]
    assert f"error: {failure['message']}\n" == refused(capsys, "torch->flax", mlp, "--like", clone)
    result = run(capsys, "inspect", mlp.parent / "missing.pt", "--json")
    assert result.code == 1 and json.loads(result.out)["error"] == "FormatError"


@pytest.mark.parametrize(
    "raised",
    [
        ZeroDivisionError("division by zero"),
        KeyError("weight"),
        RecursionError("maximum recursion depth exceeded"),
        AssertionError(),
        ValueError("several\nlines"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_else_escapes_is_one_sentence(
    mlp: Path, capsys: Print, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise raised

    monkeypatch.setattr(command, "convert", broken)
    said = refused(capsys, "torch->flax", mlp)
    assert said.startswith(f"error: this is a bug of the converter: {type(raised).__name__}: ")
    assert said.count("\n") == 1 and "test_errors.py, line " in said and f"version {__version__}" in said
    assert said.endswith("Please report this line, the command and, if you can, the file.\n")
    result = run(capsys, "torch->flax", mlp, "--json")
    failure = json.loads(result.out)
    assert result.code == 1 and result.err == ""
    assert failure["error"] == type(raised).__name__ and f"error: {failure['message']}\n" == said


def test_a_real_recursion_is_one_sentence(mlp: Path, capsys: Print, monkeypatch: pytest.MonkeyPatch) -> None:
    def deeper(*args: Any, **kwargs: Any) -> Any:
        return deeper()

    monkeypatch.setattr(command, "convert", deeper)
    said = refused(capsys, "torch->flax", mlp)
    assert "RecursionError: maximum recursion depth exceeded" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (MemoryError(), "not enough memory. Conversions need least with --workers 1."),
        (PermissionError(13, "Permission denied", "secret.pt"), "secret.pt: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
    ids=["memory", "file", "disk"],
)
def test_what_the_system_refuses_is_said_as_it_is(
    mlp: Path, capsys: Print, monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise raised

    monkeypatch.setattr(command, "convert", broken)
    assert refused(capsys, "torch->flax", mlp) == f"error: {message}\n"
    assert json.loads(run(capsys, "torch->flax", mlp, "--json").out)["message"] == message


# -- the next step works ----------------------------------------------------------------------------------------------


def square(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(1)
    both = [("a", "b"), ("c", "d")]
    source = {f"{name}.weight": rng.normal(size=(4, 4)).astype(np.float32) for name in both[0]}
    clone = {f"params/{name}/kernel": rng.normal(size=(4, 4)).astype(np.float32) for name in both[1]}
    return write(folder / "s.pt", "torch", source), write(folder / "c.msgpack", "flax-msgpack", clone)


def ambiguous(folder: Path) -> list[object]:
    source, clone = square(folder)
    return ["torch->flax", source, "--like", clone]


def existing(folder: Path) -> list[object]:
    shutil.copy(EXAMPLE, folder)
    (folder / "mlp.msgpack").write_text("x")
    return ["torch->flax", folder / "mlp.params"]


def by_strict(folder: Path) -> list[object]:
    shutil.copy(EXAMPLE, folder)
    clone = flax_clone(folder / "clone.msgpack", names=("first", "second"))
    return ["torch->flax", folder / "mlp.params", "--like", clone, "--strict"]


def missing(folder: Path) -> list[object]:
    source, clone = square(folder)
    return ["torch->flax", source, "--like", clone, "--map", "a=c", "--ignore", "b"]


def without_counterpart(folder: Path) -> list[object]:
    source, _ = square(folder)
    clone = write(folder / "one.msgpack", "flax-msgpack", {"params/c/kernel": np.ones((4, 4), np.float32)})
    return ["torch->flax", source, "--like", clone, "--map", "a=c"]


def of_unknown_kind(folder: Path) -> list[object]:
    rng = np.random.default_rng(1)
    shapes = {"rnn.weight_ih_l0": (12, 4), "fc.weight": (3, 4)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return ["torch->flax", write(folder / "rnn.pt", "torch", tensors)]


def resumed(folder: Path) -> list[object]:
    shutil.copy(EXAMPLE, folder)
    return ["torch->torch", folder / "mlp.params", "-o", folder / "x.pt", "--resume"]


SITUATIONS: list[Callable[[Path], list[object]]] = [
    ambiguous,
    existing,
    by_strict,
    missing,
    without_counterpart,
    of_unknown_kind,
    resumed,
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_the_first_remedy_of_every_problem_settles_it(
    tmp_path: Path, capsys: Print, situation: Callable[[Path], list[object]]
) -> None:
    """As a user would: read the error, add the option that it names, and again, until it is done."""
    words = situation(tmp_path)
    for _ in range(4):
        result = run(capsys, *words, "--json")
        if result.code == 0:
            break
        for problem in json.loads(result.out)["problems"]:
            whole = [one["said"] for one in problem["remedies"] if is_whole(one["said"])]
            assert whole, problem["said"]
            words += shlex.split(whole[0])
    else:
        raise AssertionError(result)
    ok(capsys, *words, *([] if "--force" in words else ["--force"]))


def is_whole(flag: str) -> bool:
    """Whether it can be typed as it stands: no part in capitals is left to the user."""
    return not any(part.isalpha() and part.isupper() and len(part) > 1 for part in flag.replace("=", " ").split())


def test_remedies_of_python_are_keywords(tmp_path: Path) -> None:
    source, clone = square(tmp_path)
    with pytest.raises(MatchError) as error:
        converter.convert("torch->flax", source, like=clone)
    (problem, *_) = error.value.problems
    assert problem.kind == "ambiguous" and problem.candidates == ("a", "b")
    option, value = problem.remedies[0].option, problem.remedies[0].value
    assert f"Say {option}={ {value[0]: value[1]} } or " in str(error.value)
    converter.convert("torch->flax", source, like=clone, **{option: dict([value])})


def test_the_second_file_is_not_advised_what_goes_to_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = torch.nn.Linear(3, 2)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    training = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    training.step()
    torch.save({"optimizer": training.state_dict()}, tmp_path / "b.pt")
    assert "--key optimizer" in refused(capsys, "verify", tmp_path / "b.pt", tmp_path / "a.pt")
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    cloned = ("torch->torch", first, "-o", tmp_path / "c.pt", "--like", second)
    for words in (("verify", first, second), cloned):
        said = refused(capsys, *words)
        assert "the state of a training" in said and "--key" not in said
