"""Write what the code knows: tables of the README and the docs, and the JSON Schema of schema files
(`python tools/tables.py`).

Tests see that both are current.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from converter.architectures.codegen.dialect import Dialect
from converter.architectures.codegen.flax import FlaxDialect
from converter.architectures.codegen.gluon import GluonDialect
from converter.architectures.codegen.keras import KerasDialect
from converter.architectures.codegen.torch import TorchDialect
from converter.architectures.document import Family
from converter.architectures.units import Shape, Unit
from converter.architectures.vocabulary import CONTAINERS, VOCABULARY, Conv, ConvTranspose, NetStep, Prelu, kind_of
from converter.core.kinds import KINDS
from converter.core.layers import Leaf
from converter.frameworks import FRAMEWORKS
from converter.schema.loader import SchemaFile, schema_folder
from converter.schema.loader import kinds as schema_kinds

ROOT = Path(__file__).parent.parent


def speed() -> str:
    """Two of the figures of docs/benchmarks.md, in a sentence."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    size = re.search(r"^## A file of ([\d.]+ GB)", text, re.MULTILINE)
    _, ours, ratio, _, _, faster, _, memory, _ = _cells(text, "torch → Flax msgpack")
    small = _cells(text, "convert 'torch->flax' mlp.params")[0]
    assert size
    return (
        f"A PyTorch file of {size[1]} becomes one of Flax in {ours.split()[0]} s: {ratio} times as long as `cp` takes, "
        f"{faster} times as fast\nas a script that imports both frameworks, in {memory} MB of memory. The small MLP "
        f"takes {small} s ([benchmarks](docs/benchmarks.md))."
    )


def _cells(text: str, title: str) -> list[str]:
    """The first row of a table that is called so, without its title."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def kinds() -> str:
    """Layer kinds x frameworks: the names of the tensors, with their axes."""
    frameworks = [framework for framework in FRAMEWORKS if framework.name != "neutral"]
    rows = ["| layer kind | " + " | ".join(f.title for f in frameworks) + " |", "|---" * (len(frameworks) + 1) + "|"]
    for kind in KINDS:
        forms = [[form for form in framework.forms if form.kind == kind] for framework in frameworks]
        names = list(dict.fromkeys(form.name for found in forms for form in found))
        for name in names:
            same = [[form for form in found if form.name == name] for found in forms]
            cells = [_leaves(found[0].leaves) if found else "" for found in same]
            rows.append(f"| {f'{kind}: {name}' if name else kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _leaves(leaves: tuple[Leaf, ...]) -> str:
    if not leaves[0].name:
        return "any name, as it is"
    shown = [f"`{leaf.name}` [{re.sub(r' (?![^(]*[)])', ', ', leaf.axes)}]" for leaf in leaves]
    return ", ".join(shown) if len(shown) < 6 else f"{shown[0]} … {shown[-1]}, {len(shown)} in all"


_SHAPE = Shape((4, 8, 8), True)
#: Options that a step must have, for an example of it.
_NEEDED: dict[str, Any] = {"groups": 2, "heads": 2, "rate": 0.5, "size": 2, "padding": ((1, 1), (1, 1))}


def vocabulary() -> str:
    """Steps of an architecture x frameworks: the options, and what the code of a clone calls."""
    dialects = [TorchDialect(), KerasDialect(), FlaxDialect(), GluonDialect()]
    titles = " | ".join(dialect.title for dialect in dialects)
    rows = [f"| step | what it does | options | {titles} |", "|---" * (3 + len(dialects)) + "|"]
    for step in VOCABULARY:
        fields = [field for field in msgspec.structs.fields(step) if field.name not in ("only_if", "unless")]
        options = ", ".join(f"`{field.encode_name}`{_default(field.default)}" for field in fields)
        cells = ["" if step in CONTAINERS else f"`{_called(dialect, step)}`" for dialect in dialects]
        does = " ".join((step.__doc__ or "").split())
        rows.append(f"| `{kind_of(step)}` | {does} | {options} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    if value is msgspec.NODEFAULT or value is None or value == "":
        return ""
    return f" = {json.dumps(value)}"


def _called(dialect: Dialect, kind: type[NetStep]) -> str:
    """What the code calls for such a step, with the options that it must have."""
    fields = [field.name for field in msgspec.structs.fields(kind) if field.default is msgspec.NODEFAULT]
    step, roles = kind(**{name: _NEEDED[name] for name in fields}), frozenset({"bias", "scale", "offset"})
    kernel = (3, 3) if isinstance(step, Conv | ConvTranspose) else ()
    unit = Unit(step, _SHAPE, _SHAPE, 4, 1 if isinstance(step, Prelu) else 4, kernel, rows=5, roles=roles)
    return dialect.expression(unit).function


#: Page -> the tables in it.
TABLES = {ROOT / "README.md": {"speed": speed}, ROOT / "docs" / "net_vocabulary.md": {"vocabulary": vocabulary}}


def current(page: Path) -> str:
    """The page with every generated table made anew between its markers."""
    text = page.read_text()
    for name, make in TABLES[page].items():
        before, *tables, after = re.split(rf"(?s)(?<=<!-- {name}: )([^\n]*-->\n).*?(?=<!-- end -->)", text)
        assert len(tables) == 1, f"{page.name} has {len(tables)} tables '{name}'"
        text = f"{before}{tables[0]}{make()}\n{after}"
    return text


LAYERS = """# Layers

Written by `make docs` from the tables that the converter uses. Axes are in the notation of
[einops](https://einops.rocks): `(g h)` is one axis that counts g (gates) times h (hidden units); `+` stands for the
spatial axes, `~+` for spatial axes that run backwards, `1*` for axes of size one. A row "kind: form" is another way in
which some framework stores that kind; `--kind LAYER=FORM` and a schema may name it.

"""


def layers() -> str:
    """The page of the layer kinds."""
    return f"{LAYERS}{kinds()}\n"


def json_schema() -> str:
    """What editors check a schema file against (https://json-schema.org)."""
    (whole, family), parts = msgspec.json.schema_components((SchemaFile, Family), ref_template="#/$defs/{name}")
    parts["SchemaFile"]["properties"]["architecture"] = {"anyOf": [family, {"type": "null"}], "default": None}
    parts["SchemaEntry"]["properties"]["kind"]["enum"] = ["", *schema_kinds()]
    whole |= {"$defs": parts, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    plain = msgspec.json.decode(msgspec.json.encode(whole))  # defaults as lists
    return json.dumps(plain, indent=2) + "\n"


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(current(page))
    (ROOT / "docs" / "layers.md").write_text(layers())
    (schema_folder() / "schema.json").write_text(json_schema())
