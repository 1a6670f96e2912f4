"""The page of a report: what ``--json`` says, in one file that loads nothing, whatever the names in a file are."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import MatchError, OutputError
from converter.formats.atomic import write_text
from converter.reports.page.lines import Line, Module, tree
from converter.reports.page.write import page_of_report
from tests.cli.test_errors import square, write
from tests.command import ok, refused, run
from tests.places import ROOT

Print = pytest.CaptureFixture[str]
EXAMPLE = ROOT / "examples" / "mlp.params"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</noscript><b>",
    "&lt;",
    "a\u202eb\x1b[2J",
    "$title",
]


class Seen(HTMLParser):
    """The tags of a page, its texts, and the cells of the rows of layers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mlp.params"))


def codes(page: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r"<code>(.*?)</code>", page)]


def rows(page: str) -> list[str]:
    """The texts of the layers."""
    return [
        html.unescape(re.sub("<[^>]*>", " ", row))
        for row in re.findall(r"<tbody class=line.*?(?=<tbody|</table)", page)
    ]


# -- what it says -----------------------------------------------------------------------------------------------------


def test_it_says_what_the_json_says(mlp: Path, capsys: Print) -> None:
    document = json.loads(
        ok(capsys, "torch->flax", mlp, "--map", "output=out", "--report", mlp.parent / "page.html", "--json")
    )
    page = (mlp.parent / "page.html").read_text()
    assert page == page_of_report(document)
    assert [tensor["layer"] for tensor in document["tensors"]] == ["hidden", "hidden", "output", "output"]
    for tensor in document["tensors"]:
        (row,) = [row for row in rows(page) if f" {tensor['layer']} " in row]
        for spec in (*tensor["sources"], tensor["target"]):
            assert f" {spec['name']} " in row and f"{tuple(spec['shape'])} {spec['dtype']}" in row
        assert all(done in row for done in tensor["done"])
        assert f"certain  {tensor['reason']}" in row and f"--map {tensor['layer']}=TARGET" in row


def test_python_has_the_same_page(mlp: Path) -> None:
    page = mlp.parent / "page.html"
    report = converter.convert("torch->flax", mlp, report=page, dry_run=True)
    assert page.read_text() == report.html() and "nothing was written" in report.html()
    assert not (mlp.parent / "mlp.msgpack").exists()
    with converter.plan(mlp, to="flax") as plan:
        done = plan.write(mlp.parent / "a.msgpack", report=mlp.parent / "a.html")
    assert (mlp.parent / "a.html").read_text() == done.html() and ">Converted<" in done.html()


def test_what_was_left_out_and_what_is_to_check_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = {"norm.weight": (4,), "norm.bias": (4,), "head.weight": (2, 4), "head.bias": (2,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    source = write(tmp_path / "net.pt", "torch", arrays)
    report = converter.convert("torch->flax", source, ignore="head", dry_run=True)
    page = report.html()
    assert report.checks and all(html.escape(check.property) in page for check in report.checks)
    assert {"head.weight", "head.bias"} <= set(codes(page)) and "Left out: 2 names" in page


def test_a_proof_stands_beside_the_layers(mlp: Path) -> None:
    report = converter.convert("torch->flax", mlp)
    page = report.html(converter.verify(mlp, report.output))  # type: ignore[arg-type]
    assert "Proof: the two agree" in page and page.count("> equal<") == 4
    assert "Proof" not in report.html()


@pytest.mark.parametrize(
    ("reason", "likely", "status", "option"),
    [
        ("schema", False, "certain", "--schema NAMES.yaml"),
        ("map", False, "certain", "--map a.b=TARGET"),
        ("names; position", True, "likely", "--kind a.b=KIND"),
        ("kept from the clone", False, "kept", "--map SOURCE=a.b"),
    ],
)
def test_a_layer_has_its_status_and_what_overrules_it(reason: str, likely: bool, status: str, option: str) -> None:
    page = page_of_report(document([("a.b", reason, likely)]))
    (row,) = rows(page)
    assert f"data-status={status}><tr>" in page and f" {status} " in row and reason in row and f" {option} " in row


def document(layers: list[tuple[str, str, bool]]) -> dict[str, Any]:
    """As `Report.to_dict` has it: layers of one tensor each."""
    end = {"path": "net.pt", "format": "PyTorch file"}
    spec = {"shape": [2, 3], "dtype": "float32"}
    tensors = [
        {
            "layer": layer,
            "kind": "linear",
            "sources": [{"name": f"{layer}.weight", **spec}],
            "target": {"name": f"params/{layer}", **spec},
            "done": ["transposed"],
            "reason": reason,
            "likely": likely,
        }
        for layer, reason, likely in layers
    ]
    empty = {"left_out": [], "overflow": {}, "underflow": {}, "flatten": [], "checklist": []}
    return {"source": end, "output": {**end, "written": True}, "tensors": tensors, **empty}


def test_the_tree_is_that_of_the_modules_with_numbers_in_order() -> None:
    paths = ["embed", "layers.0.a", "layers.10.a", "layers.2.a", "norm", "head"]
    root = tree(Line(path, "certain", "map") for path in paths)
    assert [name for name, _ in root.inside] == ["embed", "layers", "norm", "head"]
    layers = root.inside[1][1]
    assert isinstance(layers, Module) and [name for name, _ in layers.inside] == ["0", "2", "10"]
    assert [line.path for line in root.lines] == ["embed", "layers.0.a", "layers.2.a", "layers.10.a", "norm", "head"]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_refusal_has_its_page_with_what_settles_each_question(tmp_path: Path, capsys: Print) -> None:
    source, clone = square(tmp_path)
    words = ["torch->flax", source, "--like", clone, "--report", tmp_path / "page.html"]
    said = refused(capsys, *words)
    page = (tmp_path / "page.html").read_text()
    assert "could each be 'a', 'b'" in said and "could each be 'a', 'b'" in html.unescape(page)
    assert {"--map a=c", "--map b=c"} <= set(codes(page))
    assert page.count("data-status=asked><tr>") == 2 and "href=#q1" in page and 'id="q1"' in page
    ok(capsys, *words, *shlex.split("--map a=c --map b=d --force"))
    assert ">Converted<" in (tmp_path / "page.html").read_text()


def test_what_was_paired_before_is_there_and_in_the_json(tmp_path: Path, capsys: Print) -> None:
    rng = np.random.default_rng(1)
    ours = {"same.weight": (3, 4), "a.weight": (4, 4), "b.weight": (4, 4)}
    theirs = {"params/same/kernel": (4, 3), "params/c/kernel": (4, 4), "params/d/kernel": (4, 4)}
    source, clone = (
        write(tmp_path / name, form, {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()})
        for name, form, shapes in (("s.pt", "torch", ours), ("c.msgpack", "flax-msgpack", theirs))
    )
    words = ("torch->flax", source, "--like", clone, "--report", tmp_path / "page.html", "--json")
    failure = json.loads(run(capsys, *words).out)
    (pair,) = failure["paired"]
    assert (pair["layer"], pair["into"], pair["reason"], pair["likely"]) == ("same", "same", "same name", False)
    assert pair["sources"] == [{"name": "same.weight", "shape": [3, 4]}]
    page = (tmp_path / "page.html").read_text()
    (row,) = [row for row in rows(page) if " same " in row]
    assert "(3, 4)" in row and "(4, 3)" in row and "certain  same name" in row


def test_a_pair_that_is_asked_about_is_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    source = write(tmp_path / "s.pt", "torch", {"up.weight": rng.normal(size=(4, 4)).astype(np.float32)})
    with pytest.raises(MatchError):
        converter.convert("torch->flax", source, report=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "data-status=asked><tr>" in page and any(code.startswith("--kind up=") for code in codes(page))


# -- safe to open -----------------------------------------------------------------------------------------------------


def test_names_are_text_whatever_they_hold() -> None:
    page = page_of_report(document([(name, name, True) for name in HOSTILE]))
    plain = Seen(page_of_report(document([(f"l{i}", "map", True) for i in range(len(HOSTILE))])))
    seen = Seen(page)
    assert sorted(tag for tag, _ in seen.tags) == sorted(tag for tag, _ in plain.tags)
    assert {name for _, of in seen.tags for name in of} == {name for _, of in plain.tags for name in of}
    said = "".join(seen.texts)
    assert "<script>alert(1)</script>" in said and "a\\u202eb\\x1b[2J" in said and "$title" in said
    assert not {"\u202e", "\x1b"} & set(page)


def test_questions_are_text_too(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    rng = np.random.default_rng(1)
    arrays = {f"{name}.weight": rng.normal(size=(4, 4)).astype(np.float32) for name in (bad, "b")}
    source = write(tmp_path / "s.pt", "torch", arrays)
    with pytest.raises(MatchError):
        converter.convert("torch->flax", source, report=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "img" not in {tag for tag, _ in Seen(page).tags} and html.escape(bad) in page


def test_it_is_one_file_that_loads_nothing(mlp: Path) -> None:
    page = converter.convert("torch->flax", mlp, dry_run=True).html()
    tags = Seen(page).tags
    assert not [of for _, of in tags if {"src", "srcset", "style", "onclick", "action"} & set(of)]
    assert not [tag for tag, _ in tags if tag in ("link", "img", "iframe", "object", "base", "form")]
    assert "http:" not in page and "https:" not in page and "url(" not in page and "@import" not in page


def test_only_its_own_script_and_style_may_run(mlp: Path) -> None:
    page = converter.convert("torch->flax", mlp, dry_run=True).html()
    (policy,) = (of["content"] for tag, of in Seen(page).tags if of.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("style", "script"):
        (own,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_ten_thousand_layers_are_less_than_ten_megabytes() -> None:
    parts = [f"model.layers.{i // 8}.part{i % 8}" for i in range(10_000)]
    page = page_of_report(document([(path, "same name", False) for path in parts]))
    assert len(rows(page)) == 10_000 and len(page) < 10_000_000
    kept_as_text = re.sub("<noscript.*?</noscript>", "", page, flags=re.DOTALL)  # what a browser builds at once
    assert kept_as_text.count("<") < 60_000


def test_a_long_row_of_layers_is_opened_in_parts() -> None:
    page = page_of_report(document([(f"layer{i}", "same name", False) for i in range(1000)]))
    assert len(rows(page)) == 1000 and page.count('class="module') == 9
    assert "<code>layer0 … layer119</code>" in page


# -- where it is written ----------------------------------------------------------------------------------------------


def test_a_page_is_replaced_when_asked_to_and_nothing_else_ever(mlp: Path) -> None:
    page = mlp.parent / "page.html"
    converter.convert("torch->flax", mlp, report=page)
    with pytest.raises(OutputError, match="exists already"):
        converter.convert("torch->flax", mlp, mlp.parent / "b.msgpack", report=page)
    converter.convert("torch->flax", mlp, report=page, force=True)
    write_text(page, "<!doctype html>my own")
    for other in (page, mlp, mlp.parent / "mlp.msgpack", mlp.parent):
        before = other.read_bytes() if other.is_file() else b""
        with pytest.raises(OutputError, match="choose another path"):
            converter.convert("torch->flax", mlp, report=other, force=True)
        assert other.is_dir() or other.read_bytes() == before
    with pytest.raises(OutputError, match="does not exist"):
        converter.convert("torch->flax", mlp, mlp.parent / "c.msgpack", report=mlp.parent / "none" / "page.html")
    assert not (mlp.parent / "c.msgpack").exists()


@pytest.mark.parametrize("make", [lambda path: path, str], ids=["path", "text"])
def test_nothing_half_written_is_left(mlp: Path, make: Callable[[Path], Any]) -> None:
    converter.convert("torch->flax", mlp, report=make(mlp.parent / "page.html"))
    assert {file.name for file in mlp.parent.iterdir()} == {"mlp.params", "mlp.msgpack", "page.html"}
