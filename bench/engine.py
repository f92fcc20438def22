"""The engine alone: CPU time from request bytes to reply bytes, in one process, against the bare run of the same model.

    python -m bench.engine [ROUNDS]

Calls `Engine.predict` in a loop on one thread; what is not answered inline is waited for through the mailbox, so the figures say what a
transport would pay whatever thread the engine chose.  The bare run (bench.bare) is measured in the same rounds.
Owns: the figures `engine_*`, medians in microseconds of CPU (user + system, by getrusage) per call.
"""

from __future__ import annotations

import json
import resource
import select
import statistics
import sys
from collections.abc import Callable

from bench import bare, workloads
from bench.workloads import Workload
from tfs import _fastpath
from tfs.errors import TfsError

ROUNDS = 5
WARM_CALLS = 3000  # the engine runs inline only what it has seen often enough
CALLS = {"half_plus_two": 50_000, "mnist": 5_000}


class Loop:
    """Makes calls one after the other and takes their answers."""

    def __init__(self, engine: _fastpath.Engine) -> None:
        self.engine = engine
        self.mailbox = engine.mailbox()
        self.answer: bytes | TfsError | None = None
        self.inline = 0

    def _done(self, answer: bytes | TfsError) -> None:
        self.answer = answer

    def call(self, request: bytes, times: int) -> None:
        predict, mailbox = self.engine.predict, self.mailbox
        for _ in range(times):
            self.answer = None
            got = predict(mailbox, request, None, self._done)
            if isinstance(got, bytes):
                self.answer = got
                self.inline += 1
            while self.answer is None:
                select.select([mailbox.fileno()], [], [])
                mailbox.drain()
            if isinstance(self.answer, TfsError):
                raise self.answer

    def close(self) -> None:
        self.mailbox.close()


def cpu_us(call: Callable[[], None], times: int) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / times * 1e6


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> value."""
    _fastpath.load_runtime(bare.tensorflow_directory())
    cases = {"half_plus_two": workloads.recorded("half_plus_two"), "mnist": workloads.recorded("mnist", 1)}
    engine = _fastpath.Engine()
    loaded = {
        name: _fastpath.LoadedServable.load(name, 1, str(workloads.directory() / name / "1"), tags=["serve"])
        for name in cases
    }
    engine.publish({name: {1: servable} for name, servable in loaded.items()}, None)
    loop = Loop(engine)
    figures: dict[str, float] = {}
    for name, workload in cases.items():
        figures |= measure(loop, name, workload, rounds)
    engine.publish({}, None)
    loop.close()
    for servable in loaded.values():
        servable.wait_unused(10)
        servable.close()
    engine.close()
    return {name: round(value, 3) for name, value in figures.items()}


def measure(loop: Loop, name: str, workload: Workload, rounds: int) -> dict[str, float]:
    call, times = workload.grpc(), CALLS[workload.name]
    loop.call(call.body, WARM_CALLS)
    if not isinstance(loop.answer, bytes) or not call.is_right(loop.answer):
        raise RuntimeError(f"{name}: a wrong answer: {loop.answer!r}")
    loop.inline = 0
    ours, alone = [], []
    for _ in range(rounds):
        ours.append(cpu_us(lambda: loop.call(call.body, times), times))
        alone += [sample["cpu_us"] for sample in bare.run(workload, runs=times, rounds=1)]
    return {
        f"engine_{name}_us": statistics.median(ours),
        f"engine_{name}_bare_us": statistics.median(alone),
        f"engine_{name}_extra_us": statistics.median(ours) - statistics.median(alone),
        f"engine_{name}_inline": loop.inline / (times * rounds),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    json.dump(run(rounds), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
