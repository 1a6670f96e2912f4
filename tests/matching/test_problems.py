"""Many problems of one kind are a short text with what settles many at once; programs get all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from converter.core.contents import Contents
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import FLAGS, KEYWORDS, TOLD_APART, MatchError, Remedy
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.pairs import Matched
from converter.options import MatchOptions
from converter.planning.layout import plan_new
from tests.matching.test_matcher import stack

#: Layers of a net: path -> what it is ("conv", "norm" or "linear") and its sizes.
Layers = Mapping[str, tuple[str, tuple[int, ...]]]


def resnet50() -> Layers:
    """The layers of torchvision's ResNet-50 by their names, with fewer channels."""
    return dict(_resnet50())


def _resnet50() -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    def conv(path: str, norm: str, *sizes: int) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
        yield path, ("conv", sizes)
        yield norm, ("norm", sizes[:1])

    yield from conv("conv1", "bn1", 4, 3, 7, 7)
    channels = 4
    for stage, (blocks, width) in enumerate([(3, 4), (4, 8), (6, 16), (3, 32)], 1):
        for block in range(blocks):
            path = f"layer{stage}.{block}"
            yield from conv(f"{path}.conv1", f"{path}.bn1", width, channels, 1, 1)
            yield from conv(f"{path}.conv2", f"{path}.bn2", width, width, 3, 3)
            yield from conv(f"{path}.conv3", f"{path}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                yield from conv(f"{path}.downsample.0", f"{path}.downsample.1", 4 * width, channels, 1, 1)
            channels = 4 * width
    yield "fc", ("linear", (10, channels))


def torch_tensors(path: str, kind: str, sizes: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.weight", sizes
    if kind != "conv":
        yield f"{path}.bias", sizes[:1]
    if kind == "norm":
        yield f"{path}.running_mean", sizes
        yield f"{path}.running_var", sizes
        yield f"{path}.num_batches_tracked", ()


def keras_tensors(path: str, kind: str, sizes: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    shapes = {"conv": [(*sizes[2:], *sizes[1::-1])], "linear": [sizes[::-1], sizes[:1]], "norm": [sizes] * 4}
    for number, shape in enumerate(shapes[kind]):
        yield f"layers/{path.replace('.', '/')}/vars/{number}", shape


def contents(layers: Layers, tensors: Callable[..., Iterator[tuple[str, tuple[int, ...]]]]) -> Contents:
    return Contents(
        tuple(
            TensorSpec(name, shape, np.dtype("float32" if shape else "int64"))
            for path, (kind, sizes) in layers.items()
            for name, shape in tensors(path, kind, sizes)
        )
    )


SOURCE = framework("torch").net(contents(resnet50(), torch_tensors))


def renamed(spell: Callable[[str], str]) -> dict[str, str]:
    return {path: spell(path) for path in resnet50()}


def keras_clone(names: Mapping[str, str]) -> Net:
    layers = resnet50()
    return framework("tensorflow").net(contents({name: layers[path] for path, name in names.items()}, keras_tensors))


def torch_clone(names: Mapping[str, str]) -> Net:
    layers = resnet50()
    return framework("torch").net(contents({name: layers[path] for path, name in names.items()}, torch_tensors))


def flat_name(path: str) -> str:
    """As keras.applications has it: ``conv2_block1_1_bn``, the shortcut is number 0."""
    if path in ("conv1", "bn1", "fc"):
        return {"conv1": "conv1_conv", "bn1": "conv1_bn", "fc": "dense"}[path]
    match = re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn|downsample\.)(\d)", path)
    assert match is not None
    stage, block, what, number = match.groups()
    kind = {"downsample.0": "conv", "downsample.1": "bn"}.get(what + number, what)
    return f"conv{int(stage) + 1}_block{int(block) + 1}_{0 if '.' in what else number}_{kind}"


def block_name(path: str) -> str:
    """The same names inside of each block, and the blocks called by letters."""
    inside = re.sub(
        r"^layer(\d)\.(\d)", lambda m: f"body.{'pqrs'[int(m[1]) - 1]}_side.{'abcdef'[int(m[2])]}_part", path
    )
    return {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "head"}.get(path, inside)


def unrelated_name(path: str) -> str:
    """Letters that tell nothing, in another order than that of the net; Keras names the class of a Dense."""
    if path == "fc":
        return "dense"
    return "".join("abcdefghij"[int(digit)] for digit in str(int(hashlib.md5(path.encode()).hexdigest(), 16))[:8])


def sorted_by_name(names: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(names.items(), key=lambda item: item[1]))


def paired(matched: Matched) -> dict[str, str]:
    return {pair.source.path: pair.target.path for pair in matched.pairs}


def is_right(module: str, other: str, names: Mapping[str, str]) -> bool:
    return all(name == path.replace(module, other, 1) for path, name in names.items() if path.startswith(f"{module}."))


def refusal(clone: Net, **options: object) -> MatchError:
    with pytest.raises(MatchError) as error:
        match(SOURCE, clone, Hints.of(MatchOptions(**options)))  # type: ignore[arg-type]
    return error.value


def wide(error: MatchError, option: str) -> list[Remedy]:
    return [remedy for problem in error.problems for remedy in problem.wide if remedy.option == option]


@pytest.mark.parametrize(
    ("clone", "names"),
    [
        (keras_clone(renamed(flat_name)), renamed(flat_name)),
        (torch_clone(renamed(block_name)), renamed(block_name)),
    ],
    ids=["keras", "blocks"],
)
def test_a_net_that_another_author_wrote_asks_nothing(clone: Net, names: Mapping[str, str]) -> None:
    assert paired(match(SOURCE, clone, Hints())) == names


UNRELATED = sorted_by_name(renamed(unrelated_name))


@pytest.mark.parametrize("clone", [keras_clone(UNRELATED), torch_clone(UNRELATED)], ids=["keras", "torch"])
@pytest.mark.parametrize("language", [KEYWORDS, FLAGS])
def test_the_questions_of_a_whole_net_are_a_short_text(clone: Net, language: Callable[[Remedy], str]) -> None:
    error = refusal(clone)
    count = sum(1 + len(problem.alike) for problem in error.problems)
    assert count >= 40 and {problem.kind for problem in error.problems} == {"ambiguous"}
    assert 1 < len(error.problems) <= 6
    text = error.said(language)
    assert len(text.splitlines()) < 25 and len(text.encode()) < 4_500
    if len(error.problems) > TOLD_APART:
        assert text.startswith(f"{count} layers of the clone could each be several of the source")
        schema = "--schema NAMES.yaml" if language is FLAGS else "schema=NAMES.yaml"
        assert f"{schema} (settles {count})" in text
    document = error.to_dict(language)
    assert document["message"] == text and len(document["problems"]) == len(error.problems)
    assert [problem["subject"] for problem in document["problems"]] == [problem.subject for problem in error.problems]
    assert all(problem["candidates"] and problem["remedies"] for problem in document["problems"])


def test_the_maps_of_modules_that_are_proposed_settle_the_net() -> None:
    """Those that are right are taken, one after the other: each settles a block, and in the end all is paired."""
    names = renamed(block_name)
    clone, maps = torch_clone(names), dict[str, str]()
    for _ in range(20):
        try:
            found = paired(match(SOURCE, clone, Hints.of(MatchOptions(map=maps))))
        except MatchError as error:
            right = [remedy.value for remedy in wide(error, "map") if is_right(*remedy.value, names)]
            assert right, str(error)
            maps[right[0][0]] = right[0][1]
            continue
        assert found == names
        assert len(maps) < 16
        return
    raise AssertionError("the maps that were proposed do not settle the net")


def test_what_the_clone_lacks_is_left_out_by_one_pattern_a_module() -> None:
    """The patterns that are proposed take away what has no counterpart, and nothing else."""
    extra = {f"aux.{number}.side": ("linear", (3, 5 + number)) for number in range(6)}
    extra |= {f"neck.{name}.proj": ("linear", (2, 20 + size)) for size, name in enumerate("ab")}
    source = framework("torch").net(contents({**resnet50(), **extra}, torch_tensors))
    clone = torch_clone(renamed(str))
    with pytest.raises(MatchError) as error:
        match(source, clone, Hints())
    assert [1 + len(problem.alike) for problem in error.value.problems] == [6, 2]
    assert "ignore='aux' leaves it out." in str(error.value) and "ignore='neck' leaves it out." in str(error.value)
    hints = Hints.of(MatchOptions(ignore=list(dict.fromkeys(remedy.value for remedy in wide(error.value, "ignore")))))
    assert paired(match(hints.of_source(source), clone, hints)) == renamed(str)


def test_what_the_source_lacks_stays_by_one_pattern() -> None:
    more = {**resnet50(), **{f"aux.{number}.side": ("linear", (3, 5 + number)) for number in range(6)}}
    clone = framework("torch").net(contents(more, torch_tensors))
    error = refusal(clone)
    (problem,) = error.problems
    assert len(problem.alike) == 5 and str(error).endswith("allow_missing='aux' leaves it as it is.")
    matched = match(SOURCE, clone, Hints.of(MatchOptions(allow_missing="aux")))
    assert [one.layer.path for one in matched.kept] == [f"aux.{number}.side" for number in range(6)]
    assert paired(matched) == {path: path for path in resnet50()}


def test_one_kind_for_all_settles_square_kernels() -> None:
    """Kernels that could be of a transposed convolution, too, are one question and one answer."""
    layers = {f"net.{number}": ("conv", (8, 8, 3, 3)) for number in range(7)}
    held = contents(layers, torch_tensors)
    source = framework("torch").net(held)
    with pytest.raises(MatchError) as error:
        plan_new(source, held, framework("flax"), "flax-msgpack", Hints.of(MatchOptions(strict=True)))
    text = error.value.said(FLAGS)
    assert text.startswith("7 layers could be conv or conv_transpose, which are stored differently.")
    assert "Many at once: --kind '*=conv' (settles 7) or --kind '*=conv_transpose' (settles 7)." in text
    assert len(text.splitlines()) < 25
    hints = Hints.of(MatchOptions(kind=dict([wide(error.value, "kind")[0].value])))
    plan = plan_new(hints.of_source(source), held, framework("flax"), "flax-msgpack", hints)
    assert [step.kind for step in plan.steps] == ["conv"] * 7


def test_what_is_open_in_every_block_is_one_question_and_one_answer() -> None:
    names = [f"blocks.{block}.{name}" for block in range(4) for name in ("ax", "bx")]
    others = [f"part/{block}/{name}" for block in range(4) for name in ("uy", "wy")]
    source, clone = stack("torch", names, [(4, 4)] * 8), stack("flax", others, [(4, 4)] * 8)
    with pytest.raises(MatchError) as error:
        match(source, clone, Hints())
    (problem,) = error.value.problems
    assert problem.text.startswith("'part.0.uy', 'part.0.wy' of the clone could each be 'blocks.0.ax', 'blocks.0.bx'. ")
    assert len(problem.alike) == 7
    found = match(source, clone, Hints.of(MatchOptions(map={"blocks.1.ax": "part.1.wy"}))).pairs
    swapped = {"ax": "wy", "bx": "uy"}
    expected = {f"blocks.{block}.{name}": f"part.{block}.{swapped[name]}" for block in range(4) for name in swapped}
    assert {pair.source.path: pair.target.path for pair in found} == expected


def test_what_every_block_lacks_is_one_question_with_one_pattern() -> None:
    blocks = {f"blocks.{i}.{name}": ("linear", (4 + i, 3)) for i in range(3) for name in ("fc", "extra")}
    clone = framework("torch").net(contents(blocks, torch_tensors))
    ours = {path: layer for path, layer in blocks.items() if "extra" not in path}
    source = framework("torch").net(contents(ours, torch_tensors))
    with pytest.raises(MatchError) as error:
        match(source, clone, Hints())
    (problem,) = error.value.problems
    assert problem.said(FLAGS).endswith("--allow-missing 'blocks.*.extra' leaves it as it is.")
    kept = match(source, clone, Hints.of(MatchOptions(allow_missing="blocks.*.extra"))).kept
    assert [one.layer.path for one in kept] == [f"blocks.{i}.extra" for i in range(3)]
    with pytest.raises(MatchError) as error:
        match(clone, source, Hints())
    (problem,) = error.value.problems
    assert problem.said(FLAGS).endswith("--ignore 'blocks.*.extra' leaves it out.")
