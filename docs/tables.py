"""Write what the code knows: the tables of the README, and the JSON Schema of schema files (`python docs/tables.py`).

Tests see that both are current.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from converter.formats import FORMATS
from converter.frameworks import FRAMEWORKS
from converter.layers import KINDS, Leaf
from converter.schema import json_schema, schema_folder

README = Path(__file__).parent.parent / "README.md"


def formats() -> str:
    """Formats x frameworks: who writes it, and the endings that choose it for an output."""
    rows = ["| format | of | written as |", "|---|---|---|"]
    for row in FORMATS:
        titles = [framework.title for framework in FRAMEWORKS if framework.name in row.frameworks]
        endings = ", ".join(f"`{ending}`" for ending in row.extensions) or "only read"
        rows.append(f"| {row.title} (`{row.name}`) | {', '.join(titles) or 'any'} | {endings} |")
    return "\n".join(rows)


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


TABLES = {"formats": formats}


def current(text: str) -> str:
    """The text with every generated table made anew between its markers."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(\n<!-- end -->)"
        text, count = re.subn(pattern, lambda found, make=make: found[1] + make() + found[2], text, flags=re.DOTALL)
        assert count == 1, f"the README has {count} tables '{name}'"
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


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
    (README.parent / "docs" / "layers.md").write_text(layers())
    (schema_folder() / "schema.json").write_text(json.dumps(json_schema(), indent=2) + "\n")
