"""Hooks of the docs site (mkdocs.yml): pages and files from outside of docs/, and no link to a server.

The contributor's pages stand at the top of the repository. Links from pages to other files there (a schema, an example)
lead to copies in the site; links to folders become text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
TOP = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
#: What a browser would load from a server when it opens a page.
_LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+stylesheet[^>]+//""")


def on_files(files: Files, config: Any) -> Files:
    for name in TOP:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in [*files.documentation_pages()]:
        for _, target, _ in _LINK.findall(page.content_string):
            name = _outside(page, target)
            if name and (ROOT / name).is_file() and name not in TOP and files.get_file_from_path(_copy(name)) is None:
                files.append(File.generated(config, _copy(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        name = _outside(page.file, target)
        if not name:
            return match[0]
        if name.startswith("docs/"):
            name = name.removeprefix("docs/")
        elif name not in TOP:
            if not (ROOT / name).is_file():
                assert (ROOT / name).is_dir(), f"{page.file.src_uri}: a link to '{target}', which is not there"
                return f"`{name}`"
            name = _copy(name)
        return f"[{text}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or '.')}{anchor or ''})"

    return _LINK.sub(link, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    loaded = _LOADED.search(output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads something from a server: {loaded[0]}")
    return output


def _outside(page: File, target: str) -> str:
    """The file of the repository to which a link leads; "" where that is a page of docs/."""
    folder = "" if page.src_uri in TOP else posixpath.join("docs", posixpath.dirname(page.src_uri))
    name = posixpath.normpath(posixpath.join(folder, target))
    return name if page.src_uri in TOP or not name.startswith("docs/") else ""


def _copy(name: str) -> str:
    """A page in Markdown of the repository stays a text; it is no page of the site."""
    return f"repository/{name}.txt" if name.endswith(".md") else f"repository/{name}"
