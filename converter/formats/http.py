"""Files of HTTP servers, fetched in ranges by Python's own client: no answer is taken that is not what was asked for.

fsspec's own file system takes whatever a server sends: a body without an end, another range, other data packed in it.
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Timer
from typing import Any, Literal
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from upath.implementations.http import HTTPPath

__all__ = ["HttpFiles", "HttpUrl", "http_url"]

#: Seconds for an answer to begin, and the bytes a second that it has to bring then: what is slower never ends.
PATIENCE, SLOWEST = 30.0, 32_000
MOST_REDIRECTS = 5
_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.IGNORECASE)
#: By scheme.
_CONNECTIONS: dict[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}


class HttpUrl(HTTPPath):
    """The path of such a file."""

    __slots__ = ()

    def __new__(cls, *args: Any, **options: Any) -> HttpUrl:
        return object.__new__(cls)  # UPath's would take its own class, which is registered for the protocol

    @property
    def fs(self) -> HttpFiles:
        return HttpFiles()


def http_url(path: str) -> HttpUrl:
    """Raises ValueError for what is no URL."""
    scheme, _, rest = path.partition("://")
    asked = urlsplit(f"{scheme.lower()}://{rest}")
    protocol: Literal["http", "https"] = "https" if asked.scheme == "https" else "http"
    if not asked.hostname or asked.port == 0:
        raise ValueError("it names no server")
    return HttpUrl(asked.geturl(), protocol=protocol)


class HttpFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Read only, and without folders: what a page lists is not looked at. Safe for several threads.

    Raises OSError for whatever is not the answer to what was asked.
    """

    protocol = ("http", "https")
    #: Whether `cat_file` compares with what `info` said before.
    takes_like = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = defaultdict(list)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """version: what tells one content from another, where the server says it."""
        with self._answer(path, 0, 1) as answer:
            part, size = _extent(answer)
            if part is not None:
                _body(answer, 1)
            return {"name": path, "type": "file", "size": size, "version": _version(answer)}

    def exists(self, path: str, **options: Any) -> bool:
        """Raises OSError where the server does not say."""
        try:
            self.info(path)
        except (FileNotFoundError, PermissionError):  # stores say either of what is not there
            return False
        return True

    isfile = exists

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        raise NotADirectoryError("an HTTP server has no folders; name a file")

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, like: Any = None, **options: Any
    ) -> bytes:
        """like: what `info` said, if the file has to be the same still."""
        known = like or self.info(path)
        first, last, _ = slice(start, end).indices(known["size"])
        if first >= last:
            return b""
        with self._answer(path, first, last) as answer:
            if _extent(answer) != ((first, last), known["size"]) or _version(answer) != known["version"]:
                raise OSError("the server sent another part than was asked for, or the file was changed meanwhile")
            return _body(answer, last - first)

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> _HttpFile:
        if mode != "rb":
            raise OSError("an HTTP server is only read from; write to a path, or to the URL of an object store")
        return _HttpFile(self, path, mode, **{**options, "cache_type": "none"})

    @contextmanager
    def _answer(self, url: str, first: int, last: int) -> Iterator[HTTPResponse]:
        """To a request for these bytes, with what redirects lead to; a connection that was read to the end is kept."""
        asked = urlsplit(url)
        for _ in range(MOST_REDIRECTS + 1):
            place = _checked(urlsplit(url))
            secret = _secret(asked) if (place.scheme, place.netloc) == (asked.scheme, asked.netloc) else {}
            with self._request(place, {**_asking(first, last), **secret}, last - first) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    _refuse(answer)
                    yield answer
                    return
                to = urljoin(url, answer.headers.get("Location", ""))
            if place.scheme == "https" and urlsplit(to).scheme != "https":
                raise OSError("the server leads from https to something else")
            url = to
        raise OSError(f"the server leads on more than {MOST_REDIRECTS} times")

    @contextmanager
    def _request(self, place: SplitResult, headers: dict[str, str], count: int) -> Iterator[HTTPResponse]:
        idle = self._idle[place.scheme, place.netloc]
        connection = idle.pop() if idle else _connection(place)
        seconds = PATIENCE + count / SLOWEST
        try:
            with _within(connection, seconds):
                answer = _sent(connection, place, headers, time.monotonic() + seconds)
                yield answer
            if answer.isclosed() and not answer.will_close:
                idle.append(connection)
            else:
                connection.close()
        except BaseException:
            connection.close()
            raise


class _HttpFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end, like=self.details)
        return data


def _checked(url: SplitResult) -> SplitResult:
    if url.scheme not in _CONNECTIONS or not url.hostname:
        raise OSError("the server leads to something that is no file of an HTTP server")
    return url


def _asking(first: int, last: int) -> dict[str, str]:
    return {"Range": f"bytes={first}-{last - 1}", "Accept-Encoding": "identity", "User-Agent": "weights-converter"}


def _secret(url: SplitResult) -> dict[str, str]:
    """The name and password of a URL, for its own server alone."""
    if url.username is None:
        return {}
    both = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}


def _connection(place: SplitResult) -> HTTPConnection:
    return _CONNECTIONS[place.scheme](place.hostname or "", place.port, timeout=PATIENCE)


def _sent(connection: HTTPConnection, place: SplitResult, headers: dict[str, str], end: float) -> HTTPResponse:
    """A server may have closed a connection that was kept: then once more on a new one, if it is not time to end."""
    target = quote(place.path or "/", safe="/%:=&+~!$,;'@()*[]") + (f"?{place.query}" if place.query else "")
    kept = connection.sock is not None
    try:
        connection.request("GET", target, headers=headers)
        return connection.getresponse()
    except ConnectionError:
        if not kept or time.monotonic() > end - 1:
            raise
    connection.close()
    connection.request("GET", target, headers=headers)
    return connection.getresponse()


@contextmanager
def _within(connection: HTTPConnection, seconds: float) -> Iterator[None]:
    """A socket's own limit is for each piece that arrives; this one is for all of them."""
    end = time.monotonic() + seconds
    timer = Timer(seconds, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    except (HTTPException, OSError) as error:
        if time.monotonic() >= end or isinstance(error, TimeoutError):
            raise OSError(f"the server took more than {seconds:.0f} s for an answer") from error
        if isinstance(error, HTTPException):
            raise OSError(f"the server's answer is no right one ({type(error).__name__})") from error
        raise
    finally:
        timer.cancel()


def _cut(connection: HTTPConnection) -> None:
    import socket

    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed already
            return


def _refuse(answer: HTTPResponse) -> None:
    if answer.status in (404, 410):
        raise FileNotFoundError
    if answer.status in (401, 403):
        raise PermissionError(f"the server refuses access ({answer.status})")
    if answer.status == 200:
        raise OSError("its server sends no parts of a file; download the file, and name the copy")
    if answer.status not in (206, 416):
        raise OSError(f"the server answers with status {answer.status}")
    if not answer.headers.get("Content-Length", "0").isdecimal():
        raise OSError("the server does not say rightly how much it sends")
    if answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise OSError("the server packs what it sends, though it was asked for the bytes as they are")


def _extent(answer: HTTPResponse) -> tuple[tuple[int, int] | None, int]:
    """The first byte and the one after the last, none in an empty file; and the size of the whole file."""
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if found is None or (found[1] is None) != (answer.status == 416):
        raise OSError("the server does not say which part of the file it sends, and how large the file is")
    return (None if found[1] is None else (int(found[1]), int(found[2]) + 1)), int(found[3])


def _version(answer: HTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _body(answer: HTTPResponse, count: int) -> bytes:
    """Memory is taken for what arrives, not for what is announced."""
    if answer.length not in (None, count):
        raise OSError(f"the server sends {answer.length} bytes where {count} were asked for")
    data = io.BytesIO()
    while data.tell() <= count:
        chunk = answer.read(min(_CHUNK, count + 1 - data.tell()))
        if not chunk:
            break
        data.write(chunk)
    if data.tell() != count:
        raise OSError(f"the server sent {'more' if data.tell() > count else 'fewer'} than the {count} bytes asked for")
    return data.getvalue()
