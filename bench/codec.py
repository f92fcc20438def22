"""The codec alone: CPU time to decode a request, make its tensor and encode it as the reply, against plain copies.

    python -m bench.codec [ROUNDS]

Owns: the figures `codec_*`, in microseconds of CPU (user + system, by getrusage) per call; each is the median of alternating
rounds, and its baseline is measured in the same rounds.  Must not know: TensorFlow; tensors come from the fake runtime, whose
allocations are malloc's.
"""

from __future__ import annotations

import json
import resource
import statistics
import struct
import sys
from collections.abc import Callable

from tfs import _fastpath

ROUNDS = 9
SMALL_CALLS = 50_000
LARGE_CALLS = 500
LARGE_FLOATS = 262_144  # 1 MiB


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def request(floats: int, values_field: int) -> bytes:
    """A PredictRequest with one vector of floats in TensorProto's field 4 (tensor_content) or 5 (float_val)."""
    values = struct.pack(f"<{floats}f", *(i % 1000 for i in range(floats)))
    proto = b"\x08\x01" + field(2, field(2, b"\x08" + varint(floats))) + field(values_field, values)
    return field(1, field(1, b"half_plus_two")) + field(2, field(1, b"x") + field(2, proto))


def cpu_us(call: Callable[[int], object], times: int) -> float:
    """CPU microseconds per call of `call(times)`."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    call(times)
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent / times * 1e6


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> CPU microseconds per call, or (`*_ratio`) times the baseline of the same run."""
    _fastpath.fake_runtime()
    small = request(3, 5)
    packed, content = request(LARGE_FLOATS, 5), request(LARGE_FLOATS, 4)
    body = packed[-4 * LARGE_FLOATS :]
    loop = _fastpath._probe_codec_loop
    cases: dict[str, tuple[Callable[[int], object], int]] = {
        "codec_3_floats_us": (lambda times: loop(small, times), SMALL_CALLS),
        "codec_1mib_two_copies_us": (lambda times: _fastpath._probe_copy_loop(body, times), LARGE_CALLS),
        "codec_1mib_float_val_us": (lambda times: loop(packed, times), LARGE_CALLS),
        "codec_1mib_tensor_content_us": (lambda times: loop(content, times, True), LARGE_CALLS),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, (call, times) in cases.items():
            spent = cpu_us(call, times)
            if turn:  # the first round warms caches and the allocator
                taken[name].append(spent)
    figures = {name: statistics.median(values) for name, values in taken.items()}
    copies = figures["codec_1mib_two_copies_us"]
    for name in ("float_val", "tensor_content"):
        figures[f"codec_1mib_{name}_ratio"] = figures[f"codec_1mib_{name}_us"] / copies
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    json.dump(run(rounds), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
