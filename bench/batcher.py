"""The batch scheduler alone: CPU time per call from the door to the answer, with a session that only copies its input.

    python -m bench.batcher [ROUNDS]

Owns: the figures `batcher_*`.  `*_producers_us` is CPU (user + system, all threads) per call with 64 calls in flight, sending and
collecting the calls included, decode and encode not, and not what the producers take to fall asleep and to be woken when none of their
calls is back: that is the load's and not the scheduler's.  Taking that time costs something itself, so `*_with_waiting_us`, which has
everything, comes from runs that do not take it.  `alone_late_us` is how much later than its batch timeout the batch of a lone client is
answered.  Must not know: TensorFlow; tensors come from the fake runtime.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time

from tfs import _fastpath

ROUNDS = 9
CALLS = 200_000
LONE_CALLS = 16  # from then on a client is known to be alone and does not wait
IN_FLIGHT = 64
THREADS = 2
TIMEOUT_US = 1000

# What an operator would set for such a load: as many rows as are in flight, and a batch that starts as soon as a thread is free;
# and a batch of half of them that waits for more.
CASES = {
    "at_once": {"max_batch_size": IN_FLIGHT, "batch_timeout_micros": 0},
    "full_batches": {"max_batch_size": IN_FLIGHT // 2, "batch_timeout_micros": TIMEOUT_US},
}


def cpu_us(parameters: dict[str, int], producers: int, apart: bool) -> float:
    """CPU microseconds per call; with `apart` the producers' waiting is left out."""
    threads = _fastpath.BatchThreads(THREADS)
    before = resource.getrusage(resource.RUSAGE_SELF)
    # The calls of a producer that ends early leave batches short, so this much of the queue is never needed.
    counted = _fastpath._bench_batcher(
        threads, {**parameters, "max_enqueued_batches": IN_FLIGHT}, CALLS, producers, IN_FLIGHT, apart=apart
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    threads.close()
    if counted["wrong"] or counted["finished"] != CALLS:
        raise RuntimeError(f"the batcher gave wrong answers: {counted}")
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return (spent - counted["waiting_ns"] / 1e9) / CALLS * 1e6


def late_us() -> float:
    """One client: microseconds per call beyond the batch timeout."""
    threads = _fastpath.BatchThreads(THREADS)
    started = time.perf_counter()
    _fastpath._bench_batcher(
        threads, {"max_batch_size": 8, "batch_timeout_micros": TIMEOUT_US}, LONE_CALLS, 1, 1
    )
    spent = time.perf_counter() - started
    threads.close()
    return spent / LONE_CALLS * 1e6 - TIMEOUT_US


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> microseconds, the median of the rounds."""
    _fastpath.fake_runtime()
    taken: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        figures = {"batcher_alone_late_us": late_us()}
        for name, parameters in CASES.items():
            for producers in (1, 8):
                key = f"batcher_{name}_{producers}_producers"
                figures[f"{key}_us"] = cpu_us(parameters, producers, apart=True)
                figures[f"{key}_with_waiting_us"] = cpu_us(parameters, producers, apart=False)
        for name, value in figures.items():
            if turn:  # the first round warms caches and the allocator
                taken.setdefault(name, []).append(value)
    return {name: round(statistics.median(values), 4) for name, values in taken.items()}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS), indent=2))
