"""The REST JSON codec alone: CPU time to turn 1,000 x 784 numbers of text into a tensor and back, against Python's json.

    python -m bench.json_codec [ROUNDS]

Owns: the figures `json_*`, milliseconds of CPU (user + system, by getrusage) per body, and the ratios to the baselines: `json.loads` and
`np.array(float32)` for decode, `json.dumps(a.tolist())` for encode.  Each is the median of alternating rounds in one process.
Must not know: TensorFlow; tensors come from the fake runtime.
Bodies: `dense`: random float32 in [0, 1), printed as Python prints their doubles; `mnist`: four fifths zeros, the rest n / 255.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tfs import _fastpath

ROUNDS = 7
ROWS, COLUMNS = 1_000, 784
DT_FLOAT = 1


def images(kind: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The named array, float32 of ROWS x COLUMNS."""
    source = np.random.default_rng(7)
    if kind == "dense":
        return source.random((ROWS, COLUMNS), dtype=np.float32)
    ink = source.integers(1, 256, (ROWS, COLUMNS)) / 255
    return np.where(source.random((ROWS, COLUMNS)) < 0.2, ink, 0.0).astype(np.float32)


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return 1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def cases(kind: str) -> dict[str, Callable[[], object]]:
    """Figure name -> one call."""
    array = images(kind)
    body = json.dumps({"instances": array.tolist()}).encode()
    output = {"y": (DT_FLOAT, array.shape, array.tobytes())}
    return {
        f"json_{kind}_decode": lambda: _fastpath._probe_json_decode(body, {"x": DT_FLOAT}, show=False),
        f"json_{kind}_loads": lambda: np.array(json.loads(body)["instances"], np.float32),
        f"json_{kind}_encode": lambda: _fastpath._probe_json_encode(output, True),
        f"json_{kind}_dumps": lambda: json.dumps(array.tolist()),
    }


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> CPU milliseconds per body (`*_ms`), or how many times faster than the baseline of the same run (`*_ratio`)."""
    _fastpath.fake_runtime()
    calls = {**cases("dense"), **cases("mnist")}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            spent = cpu_ms(call)
            if turn:  # the first round warms caches and the allocator
                taken[name].append(spent)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    figures = {f"{name}_ms": value for name, value in medians.items()}
    for kind in ("dense", "mnist"):
        figures[f"json_{kind}_decode_ratio"] = medians[f"json_{kind}_loads"] / medians[f"json_{kind}_decode"]
        figures[f"json_{kind}_encode_ratio"] = medians[f"json_{kind}_dumps"] / medians[f"json_{kind}_encode"]
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    json.dump(run(rounds), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
