"""Write docs/checklist.md, the defaults that weights do not carry: `python tools/checklist.py`. A test sees that it is
current.
"""

from __future__ import annotations

from pathlib import Path

from converter.frameworks import FRAMEWORKS
from converter.frameworks.defaults import DEFAULTS, Setting

PAGE = Path(__file__).parent.parent / "docs" / "checklist.md"
HEAD = """# What weights do not carry

Written by `python tools/checklist.py` from `converter/frameworks/defaults.py`. The tests look every default up in the
real framework, and run the layers where no argument has it.

Equal weights are not an equal function where a clone is set otherwise than its source. The report of `convert` ends
with a line `check: …` for each row in which the two frameworks differ, if the net has layers that it concerns. It knows
the defaults alone: a file does not say what its net was set to. Where weights cannot tell (LeakyReLU, GELU, pooling),
the line comes with the nets that usually have such a layer.

`converter.load_into(net, source)` reads the settings of the live net, and warns with a `converter.CloneWarning` of each
that differs: from those of the source where that is a live net, too, else from the defaults of its framework. A params
tree of Flax linen has no settings; its side is not compared.

| property | layer kinds | """


def page() -> str:
    frameworks = [row for row in FRAMEWORKS if row.name in DEFAULTS[0].settings]
    lines = [HEAD + " | ".join(row.title for row in frameworks) + " |", "|---" * (len(frameworks) + 2) + "|"]
    for row in DEFAULTS:
        kinds = (" with " if row.together else ", ").join(sorted(row.kinds)) or "live nets only"
        cells = [_cell(row.settings.get(framework.name)) for framework in frameworks]
        lines.append(f"| {row.property} | {kinds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(setting: Setting | None) -> str:
    if setting is None:
        return ""
    argument = f" `{setting.where[0].rpartition('.')[2]}`" if setting.where else ""
    return f"{setting.said(setting.value)}{argument}"


if __name__ == "__main__":
    PAGE.write_text(page())
