"""The table of benches: name -> what measures it, and how much of it.

Owns: the names on the command line and in bench/results.  `python -m bench all` runs IN_ALL in this order (IN_QUICK with --quick);
the others take too long for it and are run by name.  The life-cycle benches (swap, many_models, reload_memory) are commands of
their own: `python -m bench.swap`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from bench import stress, suites
from bench.runner import ROOT
from bench.suites import Effort, Row

FULL = Effort(5, 1.5)
BRIEF = Effort(3, 0.7)
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
    "batching": stress.batching,
    "poison": stress.poison,
    "isolation": stress.isolation,
    "large": stress.large,
    "connections": stress.connections,
    "soak": stress.soak,
}
EFFORTS = dict.fromkeys(SUITES, BRIEF) | {
    "transport": FULL,
    "rest": FULL,
    "codec": FULL,
    "batcher": FULL,
    "json_codec": FULL,
    "engine": FULL,
}
IN_ALL = [name for name in SUITES if name != "soak"]
IN_QUICK = ["start", "transport", "rest", "payload", "codec", "json_codec", "engine", "large"]
