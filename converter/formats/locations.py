"""Where files are: paths of this machine, and URLs of whatever fsspec has a file system for (``s3://bucket/model.pt``).

A URL is a `UPath` of universal_pathlib, which behaves like a `Path`; annotations call it a `Path`.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from converter.errors import ConversionError, FormatError, MissingLibraryError

__all__ = ["exists", "inner_path", "is_url", "location", "open_binary", "reading", "store", "with_suffix"]

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_LOCAL = ("file", "local")
_HTTP = ("http", "https")


def location(path: str | os.PathLike[str]) -> Path:
    """A path, a URL, or what is one already. Raises ConversionError for a URL that nothing here can open."""
    match = _URL.match(path) if isinstance(path, str) else None
    if not match or not isinstance(path, str):
        return path if is_url(path) else Path(path)  # type: ignore[return-value]
    if match[1].lower() in _LOCAL:
        return Path(path[match.end() :])
    try:
        import fsspec
        from upath import UPath

        from converter.formats.http import http_url
    except ImportError:
        raise MissingLibraryError(f"{path}: URLs need fsspec: pip install 'weights-converter[url]'") from None
    if match[1].lower() in _HTTP:
        return _http(http_url, path)
    try:
        fsspec.get_filesystem_class(match[1].lower())
    except ValueError:
        raise ConversionError(
            f"{path}: fsspec knows no protocol '{match[1]}'. Say one such as s3, gs, az, http or sftp, or a path."
        ) from None
    except ImportError as error:
        raise MissingLibraryError(f"{path}: a package for '{match[1]}' is missing: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # for a protocol with no peculiarities that UPath knows of
            url = cast(Path, UPath(path))
        store(url)
    except Exception as error:
        raise ConversionError(f"{path}: cannot be reached: {error}") from error
    return url


def _http(make: Callable[[str], object], path: str) -> Path:
    try:
        return cast(Path, make(path))
    except ValueError as error:
        raise ConversionError(f"{path}: not a right URL: {error}") from None


def is_url(path: object) -> bool:
    return not isinstance(path, (str, os.PathLike))


def store(url: Path) -> Any:
    """The file system of a URL, which sees what others wrote meanwhile."""
    system: Any = url.fs  # type: ignore[attr-defined]
    system.invalidate_cache()
    return system


def inner_path(url: Path) -> str:
    """The path of the URL within its file system."""
    return cast(str, url.path)  # type: ignore[attr-defined]


def exists(path: Path) -> bool:
    """Whether it exists now, even if another machine made it."""
    if is_url(path):
        return bool(store(path).exists(inner_path(path)))
    return path.exists()


def with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix) if suffix else path


def open_binary(path: Path) -> BinaryIO:
    """The file, opened to read parts of it."""
    if is_url(path):
        return cast(BinaryIO, store(path).open(inner_path(path), "rb", cache_type="none"))
    return path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of a URL's file system into FormatError: each has exceptions of its own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConversionError) or not is_url(path):
            raise
        missing = isinstance(error, FileNotFoundError)
        reason = "there is no such file" if missing else f"cannot be read: {str(error) or type(error).__name__}"
        raise FormatError(path, reason) from error
