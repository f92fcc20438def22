"""What the tests of the native REST transport share: raw requests, raw answers, and uvicorn's parser as the referee.

Owns: the forms of requests and answers as bytes; `referee`, which says what httptools makes of the same bytes; `check`, which compares the
two readings of a connection.  No TensorFlow, no sockets.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import httptools

from tfs import _fastpath

TARGET = b"/v1/models/m:predict"
GZIP_MIN_BYTES = 4096
_TARGET = re.compile(rb"/v1/models/([\w.-]+)(?:/versions/\d+|/labels/[\w.-]+)?:predict", re.ASCII)
_DATE = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")
_NAMES = {b"hold", b"big:", b"fail"}  # bodies that begin so mean something to EchoEngine


def post(body: bytes = b"{}", *headers: bytes, target: bytes = TARGET, line: bytes | None = None) -> bytes:
    """A Predict of the plain form; `headers` are more lines, `line` stands instead of the request line."""
    first = line or b"POST %s HTTP/1.1" % target
    return b"\r\n".join([first, b"Host: h", *headers, b"Content-Length: %d" % len(body), b"", body])


def head(*lines: bytes, line: bytes = b"POST /v1/models/m:predict HTTP/1.1") -> bytes:
    """A head of exactly these lines."""
    return b"\r\n".join([line, *lines, b"", b""])


class Answer(NamedTuple):
    """One answer; `headers` without the date, names in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def last(self) -> bool:
        """Whether the server says that it closes the connection."""
        return self.headers.get(b"connection") == b"close"


def answers(data: bytes, dated: bool = True) -> list[Answer]:
    """Whole answers, back to back; fails when there is anything else. `dated`: each must have a date."""
    found = []
    while data:
        top, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, f"not an answer: {data[:200]!r}"
        first, *lines = top.split(b"\r\n")
        assert first.startswith(b"HTTP/1.1 "), first
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        assert len(headers) == len(lines), f"a header twice: {lines}"
        date = headers.pop(b"date", None)
        assert (date is None and not dated) or _DATE.fullmatch(date or b""), first
        size = int(headers[b"content-length"])
        assert len(rest) >= size, f"cut short: {data[:200]!r}"
        found.append(Answer(int(first.split()[1]), headers, rest[:size]))
        data = rest[size:]
    return found


# -- the referee


@dataclass
class Seen:
    """One whole request as httptools reads it; `end` is where the next one begins."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    end: int


class _Watcher:
    """httptools' callbacks; reads byte by byte, so that a request's end is known."""

    def __init__(self, data: bytes) -> None:
        self.found: list[Seen] = []
        self.at = 0
        self.parser = httptools.HttpRequestParser(self)
        try:
            for self.at in range(len(data)):
                self.parser.feed_data(data[self.at : self.at + 1])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            pass

    def on_message_begin(self) -> None:
        self.target, self.body = b"", b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        parser = self.parser
        self.found.append(
            Seen(
                parser.get_method(),
                self.target,
                self.headers,
                self.body,
                parser.should_keep_alive(),
                self.at + 1,
            )
        )


def referee(data: bytes) -> list[Seen]:
    """The whole requests that uvicorn's parser finds in `data`, up to the first byte that is not HTTP to it."""
    return _Watcher(data).found


# -- the comparison


def check(pieces: Sequence[bytes], max_body_bytes: int = 0) -> tuple[list[Answer], bytes | None]:
    """Feeds the native parser; fails unless the referee sees every request that was answered, and agrees on where each ends.

    Returns the answers, and what was handed to Python."""
    data = b"".join(pieces)
    written, moved = _fastpath._probe_http1_feed(pieces, max_body_bytes=max_body_bytes)
    found = answers(written)
    seen = referee(data)
    assert len(found) <= len(seen), f"{len(found)} answers to {len(seen)} requests"
    for answer, request in zip(found, seen, strict=False):
        _agree(answer, request)
    assert not any(answer.last for answer in found[:-1]), "an answer after the last"
    end = seen[len(found) - 1].end if found else 0
    if moved is not None:
        assert not (found and found[-1].last), "handed over after the last answer"
        assert data[end:].startswith(moved), "not the bytes that were not answered"
        read = end + len(moved)
        assert read in boundaries(pieces), "not all the bytes that were read"
    elif not (found and found[-1].last):
        assert len(found) == len(seen), "a whole request was neither answered nor handed over"
    return found, moved


def boundaries(pieces: Sequence[bytes]) -> set[int]:
    """Where the pieces end in the whole."""
    at, found = 0, {0}
    for piece in pieces:
        at += len(piece)
        found.add(at)
    return found


def _agree(answer: Answer, request: Seen) -> None:
    """Whether the answer is one to that very request."""
    assert request.method == b"POST"
    target = _TARGET.fullmatch(request.target)
    assert target is not None, request.target
    assert answer.last is not request.keep_alive, "keep-alive"
    if request.body[:4] in _NAMES - {b"hold"}:
        return
    body = answer.body
    if answer.headers.get(b"c") == b"d":  # the probe's sign of gzip
        assert len(request.body) + len(target[1]) + 1 >= GZIP_MIN_BYTES
        body = gzip.decompress(body)
    assert (answer.status, body) == (200, target[1] + b":" + request.body)


def cut(data: bytes, size: int) -> list[bytes]:
    """Pieces of `size` bytes."""
    return [data[at : at + size] for at in range(0, len(data), size)]
