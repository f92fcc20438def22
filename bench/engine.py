"""The engine alone: CPU time from request bytes to reply bytes, in one process, against the bare run of the same model.

    python -m bench.engine [ROUNDS]

Three loops over the same request, one call after the other: the engine without Python (what the native transport pays), the engine
through `Engine.predict` and a mailbox (what grpcio and REST pay), and TF_SessionRun with feeds made once.  Each round has all three.
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
from tfs.config import Settings
from tfs.errors import TfsError

ROUNDS = 7
WARM_CALLS = 3000  # the engine runs inline only what it has seen often enough
CALLS = {"half_plus_two": 50_000, "mnist": 5_000}
LARGE_FLOATS = 4 << 20  # 16 MiB
LARGE_CALLS = 20


class Loop:
    """Makes calls through Python one after the other and takes their answers."""

    def __init__(self, engine: _fastpath.Engine) -> None:
        self.engine = engine
        self.mailbox = engine.mailbox()
        self.answer: bytes | TfsError | None = None

    def _done(self, answer: bytes | TfsError) -> None:
        self.answer = answer

    def call(self, request: bytes, times: int) -> None:
        predict, mailbox = self.engine.predict, self.mailbox
        for _ in range(times):
            self.answer = None
            got = predict(mailbox, request, None, self._done)
            if isinstance(got, bytes):
                self.answer = got
            while self.answer is None:
                select.select([mailbox.fileno()], [], [])
                mailbox.drain()
            if isinstance(self.answer, TfsError):
                raise self.answer


def cpu_us(call: Callable[[], object], times: int) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / times * 1e6


def medians(rounds: int, times: int, cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU microseconds per call of each case, rounds alternating."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            taken[name].append(cpu_us(call, times))
    return {name: statistics.median(values) for name, values in taken.items()}


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> value."""
    _fastpath.load_runtime(bare.tensorflow_directory())
    engine = _fastpath.Engine()
    threads = Settings().session_config()  # inside ops as many as the server would use
    loaded = {
        name: _fastpath.LoadedServable.load(
            name, 1, str(workloads.directory() / name / "1"), tags=["serve"], session_config=threads
        )
        for name in ("half_plus_two", "mnist", "echo")
    }
    engine.publish({name: {1: servable} for name, servable in loaded.items()}, None)
    loop = Loop(engine)
    figures: dict[str, float] = {}
    for workload in (workloads.recorded("half_plus_two"), workloads.recorded("mnist", 1)):
        figures |= measure(loop, loaded[workload.model], workload, rounds)
    figures |= measure_large(loop, loaded["echo"], rounds)
    engine.publish({}, None)
    engine.close()
    loop.mailbox.close()
    for servable in loaded.values():
        servable.close()
    return {name: round(value, 3) for name, value in figures.items()}


def measure(
    loop: Loop, servable: _fastpath.LoadedServable, workload: Workload, rounds: int
) -> dict[str, float]:
    name, call, times = workload.name, workload.grpc(), CALLS[workload.name]
    loop.call(call.body, WARM_CALLS)
    if not isinstance(loop.answer, bytes) or not call.is_right(loop.answer):
        raise RuntimeError(f"{name}: a wrong answer: {loop.answer!r}")
    engine = loop.engine
    inline = _fastpath._probe_engine_loop(engine, call.body, times)
    found = medians(
        rounds,
        times,
        {
            "": lambda: _fastpath._probe_engine_loop(engine, call.body, times),
            "_deadline": lambda: _fastpath._probe_engine_loop(engine, call.body, times, 10_000_000_000),
            "_bare": lambda: _fastpath._probe_bare_run(engine, servable, call.body, times),
            "_python": lambda: loop.call(call.body, times),
        },
    )
    return {
        **{f"engine_{name}{case}_us": value for case, value in found.items()},
        f"engine_{name}_extra_us": found[""] - found["_bare"],
        f"engine_{name}_inline": inline / times,
    }


def measure_large(loop: Loop, servable: _fastpath.LoadedServable, rounds: int) -> dict[str, float]:
    """An echo of 16 MiB: beyond the bare run there should be little more than two copies into fresh memory."""
    call = workloads.echo(LARGE_FLOATS).grpc()
    loop.call(call.body, 5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop.call(call.body, 1)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    value = call.body[-4 * LARGE_FLOATS :]
    engine = loop.engine
    found = medians(
        rounds,
        LARGE_CALLS,
        {
            "": lambda: _fastpath._probe_engine_loop(engine, call.body, LARGE_CALLS),
            "_bare": lambda: _fastpath._probe_bare_run(engine, servable, call.body, LARGE_CALLS),
            "_copies": lambda: _fastpath._probe_copy_loop(value, LARGE_CALLS),
        },
    )
    return {
        **{f"engine_echo16m{case}_us": figure for case, figure in found.items()},
        "engine_echo16m_copies_ratio": (found[""] - found["_bare"]) / found["_copies"],
        "engine_echo16m_late_growth_mb": grown / 1024,
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    json.dump(run(rounds), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
