"""The table of benches: name -> what measures it, and how much of it.

Owns: the names on the command line and in bench/results.  `python -m bench all` runs all of them in this order (IN_QUICK with --quick),
short: what would take minutes is cut, and its rows say by how much.  By name a suite is run whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from bench import batches, many_models, perf_analyzer, reload_memory, stress, suites, swap
from bench.runner import ROOT
from bench.suites import Effort, Row

FULL = Effort(5, 0.7)  # what figures are read from that are near their bounds
BRIEF = Effort(3, 0.7)
THIN = Effort(2, 0.7)  # many rows for a picture, or figures far from their bounds
QUICK = Effort(2, 0.5, quick=True)


def micro(module: str) -> Callable[[Effort], list[Row]]:
    """A bench that measures one part in one process: `python -m bench.MODULE ROUNDS` prints its figures as a JSON object."""

    def run(effort: Effort) -> list[Row]:
        command = [sys.executable, "-m", f"bench.{module}", str(effort.rounds)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
        return [{"workload": module, "target": "in process", "figures": json.loads(done.stdout)}]

    run.__doc__ = f"One part alone, in one process: bench/{module}.py."
    return run


SUITES: dict[str, Callable[[Effort], list[Row]]] = {
    "start": suites.start,
    "transport": suites.transport,
    "rest": suites.rest,
    "sides": suites.sides,
    "concurrency": suites.concurrency,
    "latency": suites.latency,
    "payload": suites.payload,
    "batch_size": suites.batch_size,
    "codec": micro("codec"),
    "batcher": micro("batcher"),
    "json_codec": micro("json_codec"),
    "engine": micro("engine"),
    "client": micro("client"),
    "profile": micro("profile"),
    "perf_analyzer": perf_analyzer.perf_analyzer,
    "batching": batches.batching,
    "batch_latency": batches.batch_latency,
    "poison": batches.poison,
    "isolation": stress.isolation,
    "large": stress.large,
    "connections": stress.connections,
    "swap": swap.swap,
    "many_models": many_models.many_models,
    "reload_memory": reload_memory.reload_memory,
    "soak": stress.soak,
}
EFFORTS = dict.fromkeys(SUITES, BRIEF) | {
    "transport": FULL,
    "rest": FULL,
    "codec": FULL,
    "batcher": FULL,
    **dict.fromkeys(("sides", "concurrency", "latency", "payload", "batch_size", "client", "profile"), THIN),
    **dict.fromkeys(("perf_analyzer", "batch_latency"), THIN),
}
IN_QUICK = ["start", "transport", "rest", "payload", "codec", "json_codec", "engine", "large"]


def effort_of(name: str, *, quick: bool, one_of_many: bool) -> Effort:
    return replace(QUICK if quick else EFFORTS[name], short=one_of_many)
