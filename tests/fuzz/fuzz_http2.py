"""Invariant: any bytes end in whole HTTP/2 frames or a closed connection, however they are split; no crash, hang, ticket or byte left over.

    PYTHONPATH=. python tests/fuzz/fuzz_http2.py [SECONDS] [SEED]

The connection's state machine runs without a socket over an engine that echoes (`_probe_http2_feed`).  With atheris installed it is
driven by coverage; without it, seeds are mutated at random, frame by frame and byte by byte.  A finding is written to
tests/fuzz/corpus_http2/, where test_grpc_corpus.py replays it for ever; a crash leaves its input in tests/fuzz/corpus_http2.running.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus_http2"
sys.path[:0] = [str(HERE.parent), str(HERE)]

from harness import Harness  # noqa: E402
from native_support import PREFACE, frames  # noqa: E402

from tfs import _fastpath  # noqa: E402

MAX_SIZE = 65536
HEADER = 9
SPLICES = [
    bytes(9),
    b"\xff" * 9,
    b"\0\0\4\10\0\0\0\0\0\x7f\xff\xff\xff",
    b"\0\0\4\3\0\0\0\0\1\0\0\0\x08",
    b"\0\0\0\1\4\0\0\0\1",
]


def check(data: bytes) -> None:
    for size in (len(data) or 1, 1 + len(data) // 7, 1 + len(data) % 13):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        written = _fastpath._probe_http2_feed(pieces, max_message_bytes=100_000, byte_budget=50_000)
        whole = sum(HEADER + len(payload) for *_, payload in frames(written))
        assert whole == len(written), (data, written)


def split(data: bytes) -> list[bytes]:
    """A connection's bytes as preface and frames; what is no whole frame stays in one piece."""
    if not data.startswith(PREFACE):
        return [data]
    pieces, rest = [PREFACE], data[len(PREFACE) :]
    while len(rest) >= HEADER:
        size = HEADER + int.from_bytes(rest[:3], "big")
        pieces.append(rest[:size])
        rest = rest[size:]
    return [*pieces, rest]


def mutate_frames(source: random.Random, pieces: list[bytes], others: list[bytes]) -> None:
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
    elif len(pieces[at]) >= HEADER:
        changed = bytearray(pieces[at])
        changed[source.choice((3, 4, 4, 8))] ^= 1 << source.randint(0, 7)
        pieces[at] = bytes(changed)


def mutate_bytes(source: random.Random, made: bytearray) -> None:
    at = source.randint(0, len(made))
    kind = source.randint(0, 3)
    if kind == 0 and at < len(made):
        made[at] ^= 1 << source.randint(0, 7)
    elif kind == 1:
        del made[at : at + source.randint(1, 16)]
    elif kind == 2:
        made[at:at] = source.choice(SPLICES)
    elif at < len(made):
        made[at] = source.randint(0, 255)


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    pieces = split(source.choice(seeds))
    others = split(source.choice(seeds))
    for _ in range(source.randint(0, 5)):
        mutate_frames(source, pieces, others)
        pieces = pieces or [PREFACE]
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
