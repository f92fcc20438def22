"""Invariant: any bytes are a decoded request or INVALID_ARGUMENT, as the slow twin says; no crash, no hang, no tensor left behind.

    PYTHONPATH=. python tests/fuzz/fuzz_request.py [SECONDS] [SEED]

With atheris installed it is driven by coverage (arguments are then libFuzzer's); without it, seeds are mutated at random.  A
finding is written to tests/fastpath/corpus/, where test_corpus.py replays it for ever.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent / "fastpath" / "corpus"
sys.path[:0] = [str(HERE.parent), str(HERE)]

import reference  # noqa: E402
from harness import Harness  # noqa: E402

from tfs import _fastpath, errors  # noqa: E402

MAX_SIZE = 4096
SPLICES = [
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\x12\x00",
    b"\x22\x04abcd",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
    b"\x2a\x04\0\0\0\0",
]


def outcome(decode: Any, request: bytes) -> Any:
    """What it became, without the bits inside NaNs; or the refusal."""
    try:
        shown = decode(request)
    except errors.InvalidArgument:
        return "INVALID_ARGUMENT"
    inputs = {}
    for alias, tensor in shown["inputs"].items():
        is_float = not isinstance(tensor, str) and tensor[0] in (1, 2, 8, 18)
        inputs[alias] = (*tensor[:2], len(tensor[2])) if is_float else tensor
    return {**shown, "inputs": inputs}


def check(request: bytes) -> None:
    fast = outcome(_fastpath._probe_decode, request)
    assert fast == outcome(reference.decode, request), request
    assert _fastpath.fake_counts()["alive"] == 0, request


def mutate(source: random.Random, seeds: list[bytes]) -> bytes:
    made = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 6)):
        at = source.randint(0, len(made))
        kind = source.randint(0, 5)
        if kind == 0 and at < len(made):
            made[at] = source.randint(0, 255)
        elif kind == 1 and at < len(made):
            made[at] ^= 1 << source.randint(0, 7)
        elif kind == 2:
            del made[at : at + source.randint(1, 16)]
        elif kind == 3:
            made[at:at] = source.choice(SPLICES)
        elif kind == 4:
            made[at:at] = made[at : at + source.randint(1, 64)]
        else:
            other = source.choice(seeds)
            cut = source.randint(0, len(other))
            made[at:] = other[cut:]
    return bytes(made[:MAX_SIZE])


HARNESS = Harness(CORPUS, check, mutate)
run = HARNESS.run


if __name__ == "__main__":
    _fastpath.fake_runtime()
    HARNESS.main()
