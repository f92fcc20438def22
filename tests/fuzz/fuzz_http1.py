"""Invariant: the native REST transport answers only what uvicorn's parser reads in the same way, and hands on every byte of the rest.

    PYTHONPATH=. python tests/fuzz/fuzz_http1.py [SECONDS] [SEED]

The connection's state machine runs without a socket over an engine that echoes (`_probe_http1_feed`); http1_support.check compares it with
httptools, however the bytes are cut.  With atheris installed it is driven by coverage; without it, seeds are mutated at random, line by
line and byte by byte.  A finding is written to tests/fuzz/corpus_http1/, where test_rest_corpus.py replays it for ever; a crash leaves its
input in tests/fuzz/corpus_http1.running.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus_http1"
sys.path[:0] = [str(HERE.parent), str(HERE)]

import http1_support  # noqa: E402
from harness import Harness  # noqa: E402

from tfs import _fastpath  # noqa: E402

MAX_SIZE = 16384
MAX_BODY_BYTES = 10_000
SPLICES = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\0",
    b"\x7f",
    b"0",
    b"+",
    b",",
    b"\r\n\r\n",
    b"\r\n ",
    b"Content-Length: 2\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Accept-Encoding: gzip\r\n",
    b" HTTP/1.1",
    b"POST /v1/models/m:predict HTTP/1.1\r\n",
]


def check(data: bytes) -> None:
    for size in (len(data) or 1, 1 + len(data) // 7, 1 + len(data) % 13):
        http1_support.check(http1_support.cut(data, size), max_body_bytes=MAX_BODY_BYTES)


def split(data: bytes) -> list[bytes]:
    """Lines with their ends; a body is the last line, or the beginning of the next request's first."""
    return data.splitlines(keepends=True) or [b""]


def mutate_lines(source: random.Random, pieces: list[bytes], others: list[bytes]) -> None:
    at = source.randrange(len(pieces))
    kind = source.randint(0, 4)
    if kind == 0:
        del pieces[at]
    elif kind == 1:
        pieces.insert(at, source.choice(pieces))
    elif kind == 2:
        pieces.insert(at, source.choice(others))
    elif kind == 3:
        pieces.insert(source.randrange(len(pieces)), pieces.pop(at))
    else:
        pieces[at] = pieces[at].swapcase()


def mutate_bytes(source: random.Random, made: bytearray) -> None:
    at = source.randint(0, len(made))
    kind = source.randint(0, 3)
    if kind == 0 and at < len(made):
        made[at] ^= 1 << source.randint(0, 7)
    elif kind == 1:
        del made[at : at + source.randint(1, 8)]
    elif kind == 2:
        made[at:at] = source.choice(SPLICES)
    elif at < len(made):
        made[at] = source.randint(0, 255)


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    pieces = split(source.choice(seeds))
    others = split(source.choice(seeds))
    for _ in range(source.randint(0, 3)):
        mutate_lines(source, pieces, others)
        pieces = pieces or [b"\r\n"]
    made = bytearray(b"".join(pieces))
    for _ in range(source.randint(0, 3)):
        mutate_bytes(source, made)
    return bytes(made[:MAX_SIZE])


HARNESS = Harness(CORPUS, check, mutate)
run = HARNESS.run


if __name__ == "__main__":
    if _fastpath.HAVE_NATIVE:
        HARNESS.main()
    else:
        print("this build has no native transport")
