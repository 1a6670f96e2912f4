"""An HTTP server of this machine that serves one folder, in ranges, and lies as a test asks it to."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["LIES", "Answer", "Server", "serving"]

#: An answer that is too much for the memory, if it were kept.
HUGE = 1 << 40


class Server(ThreadingHTTPServer):
    """folder: what is served. lie: of `LIES`; "" for none. until: so many requests are answered rightly first."""

    daemon_threads = True
    folder: Path
    lie = ""
    until = 0
    requests: list[tuple[str, str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what is wanted."""


class Answer(BaseHTTPRequestHandler):
    """The part that was asked for of the file, as HTTP says it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        here = self.server
        here.requests.append((self.path, self.headers.get("Range", "")))
        file = here.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        self.whole = file.read_bytes() if file.is_file() else b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.first, self.last = (int(asked[1]), min(int(asked[2]) + 1, len(self.whole))) if asked else (0, 0)
        if not file.is_file():
            self.say(404, {"Content-Length": "0"})
        elif len(here.requests) > here.until and here.lie:
            LIES[here.lie](self)
        else:
            self.right()

    def right(self, **headers: str) -> None:
        part = self.whole[self.first : self.last]
        if not part:
            self.say(416, {"Content-Range": f"bytes */{len(self.whole)}", "Content-Length": "0"})
            return
        self.say(206, {**self.headings(), **headers}, part)

    def headings(self, size: int | None = None) -> dict[str, str]:
        return {
            "Content-Range": f"bytes {self.first}-{self.last - 1}/{size or len(self.whole)}",
            "Content-Length": str(self.last - self.first),
            "ETag": '"1"',
        }

    def say(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def pour(self, block: bytes, times: int = HUGE, pause: float = 0) -> None:
        """Until the client hangs up."""
        for _ in range(times):
            self.wfile.write(block)
            time.sleep(pause)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at what comes of it."""


def _part(answer: Answer) -> bytes:
    return answer.whole[answer.first : answer.last]


def _headed(change: Callable[[Answer], dict[str, str]], body: Callable[[Answer], bytes] = _part) -> Callable[..., None]:
    """With other headers, or another body, than are right."""

    def lie(answer: Answer) -> None:
        answer.close_connection = True
        answer.say(206, {**answer.headings(), **change(answer)}, body(answer))

    return lie


def _without_ranges(answer: Answer) -> None:
    answer.say(200, {"Content-Length": str(len(answer.whole)), "ETag": '"1"'}, answer.whole)


def _endless(answer: Answer) -> None:
    answer.say(206, {"Content-Range": answer.headings()["Content-Range"], "Connection": "close", "ETag": '"1"'})
    answer.pour(b"\1" * (1 << 20))


def _endless_chunks(answer: Answer) -> None:
    answer.say(206, {"Content-Range": answer.headings()["Content-Range"], "Transfer-Encoding": "chunked"})
    answer.pour(b"100000\r\n" + b"\1" * (1 << 20) + b"\r\n")


def _endless_chunk_line(answer: Answer) -> None:
    answer.say(206, {"Content-Range": answer.headings()["Content-Range"], "Transfer-Encoding": "chunked"})
    answer.pour(b"0" * (1 << 20))


def _packed(answer: Answer) -> None:
    """10 GB of zeros, in 10 MB."""
    answer.say(206, {**answer.headings(), "Content-Encoding": "gzip", "Content-Length": str(len(_BOMB))}, _BOMB)


_BOMB = gzip.compress(bytes(10 << 20)) * 1000


def _headers(answer: Answer) -> None:
    answer.send_response(206)
    for number in range(160):
        answer.send_header(f"X-{number}", "a" * 65_000)
    for name, value in answer.headings().items():
        answer.send_header(name, value)
    answer.end_headers()


def _one_header(answer: Answer) -> None:
    answer.wfile.write(b"HTTP/1.1 206 OK\r\nX: ")
    answer.pour(b"a" * (1 << 20))


def _to(place: str) -> Callable[[Answer], None]:
    def lie(answer: Answer) -> None:
        answer.say(302, {"Location": place, "Content-Length": "0"})

    return lie


def _elsewhere_each_time(answer: Answer) -> None:
    answer.say(302, {"Location": f"{answer.path.partition('?')[0]}?{len(answer.server.requests)}"})


def _huge(answer: Answer) -> None:
    """A size that no file has, and as many bytes as are asked of it."""
    answer.say(206, {**answer.headings(10**15), "Content-Length": str(answer.last - answer.first)}, _part(answer))


def _continued(answer: Answer) -> None:
    answer.pour(b"HTTP/1.1 100 Continue\r\n\r\n")


def _no_http(answer: Answer) -> None:
    answer.wfile.write(b"\x1b]0;owned\x07" * 1000)
    answer.close_connection = True


LIES: dict[str, Callable[[Answer], None]] = {
    "a length too large": _headed(lambda a: {"Content-Length": str(a.last - a.first + 100)}),
    "a length too small": _headed(lambda a: {"Content-Length": str((a.last - a.first) // 2)}),
    "a length that is none": _headed(lambda a: {"Content-Length": "\x1b[31m"}),
    "a length below zero": _headed(lambda a: {"Content-Length": "-5"}),
    "no ranges": _without_ranges,
    "another range": _headed(lambda a: {"Content-Range": f"bytes {a.first + 1}-{a.last}/{len(a.whole)}"}),
    "more than asked": _headed(
        lambda a: {"Content-Length": str(a.last - a.first + 1)}, lambda a: a.whole[a.first : a.last] + b"x"
    ),
    "the whole file as a part": _headed(lambda a: {"Content-Length": str(len(a.whole))}, lambda a: a.whole),
    "no range said": _headed(lambda a: {"Content-Range": "bytes"}),
    "a range of thousands of digits": _headed(lambda a: {"Content-Range": f"bytes 0-1/{'9' * 5000}"}),
    "a truncated body": _headed(lambda a: {}, lambda a: a.whole[a.first : a.last][:-1]),
    "another length each time": _headed(
        lambda a: {"Content-Range": f"bytes {a.first}-{a.last - 1}/{len(a.whole) + len(a.server.requests)}"}
    ),
    "another file each time": _headed(lambda a: {"ETag": f'"{len(a.server.requests)}"'}),
    "a huge size": _huge,
    "an endless body": _endless,
    "endless chunks": _endless_chunks,
    "an endless line of a chunk": _endless_chunk_line,
    "a gzip bomb": _packed,
    "headers of 10 MB": _headers,
    "a header without an end": _one_header,
    "in a circle": _to("/net.safetensors"),
    "on and on": _elsewhere_each_time,
    "to a file": _to("file:///etc/passwd"),
    "to ftp": _to("ftp://127.0.0.1/x"),
    "to nowhere": _to(""),
    "to no host": _to("http:///x"),
    "no HTTP": _no_http,
    "a status of its own": lambda answer: answer.say(599, {"Content-Length": "0"}),
}
#: Which end after a time that is for tests to set.
SLOW: dict[str, Callable[[Answer], None]] = {
    "a trickle": lambda answer: (answer.say(206, answer.headings()), answer.pour(b"\1", pause=0.05))[0],
    "headers in a trickle": lambda answer: answer.pour(b"HTTP/1.1 206 OK\r\nX: a\r\n"[:1], pause=0.05),
    "a hundred and again": lambda answer: answer.pour(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01),
    "silence": lambda answer: time.sleep(3),
}
LIES |= SLOW


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of the files in the folder, on a free port of this machine."""
    with Server(("127.0.0.1", 0), Answer) as server:
        server.folder, server.requests = folder, []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
