"""Hot swap under steady load: 20 times add version v+1, wait until it serves, remove v.  No call may fail or be wrong.

The native server carries gRPC and REST at the same time, the grpcio one gRPC: the same load first without swaps (p99 to compare with),
then during them.  A version goes while the next but one comes: both are found by the same look at the directory, one a second.
Owns: the sequence, the rows of the suite `swap`.  Must not know: how a load is made (bench.steady), how a server is started.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.runner import ROOT, Process
from bench.steady import MODEL
from bench.suites import Effort, Row, present
from bench.targets import tfs
from bench.versions import PLUS, publish, retire, wait_states

TARGETS = {"tfs-native": ("native", ("grpc", "rest")), "tfs-grpcio": ("grpcio", ("grpc",))}
SWAPS = 20
RATE = 300  # calls per second and face
QUIET_S = 20.0
QUIET_SHORT_S = 6.0
SLACK_US = 5000
Load = dict[str, Any]


def under_load(
    process: Process, faces: Sequence[str], rate: float, work: Callable[[], None]
) -> dict[str, Load]:
    """The summaries of a load on each face for the time that `work` takes."""
    with ExitStack() as stack:
        loads = {}
        for face in faces:
            command = [sys.executable, "-m", "bench.steady", f"--face={face}"]
            command += [f"--port={process.launch.ports[face]}", f"--rate={rate}"]
            loads[face] = stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for load in loads.values():  # they say so when their first calls have been answered
            if load.stdout is None or load.stdout.readline() != "ready\n":
                raise RuntimeError("bench.steady did not start")
        work()
        return {face: json.loads(load.communicate()[0]) for face, load in loads.items()}


def source_of(version: int) -> Path:
    """Versions answer by their parity (bench.steady)."""
    return PLUS / ("1" if version % 2 else "2")


def swap_versions(base: Path, rest_port: int, first: int, swaps: int) -> None:
    for old in range(first, first + swaps):
        new = old + 1
        publish(source_of(new), base, new)
        wait_states(rest_port, MODEL, lambda s, v=new: s.get(v) == "AVAILABLE", f"version {new} to serve")
        retire(base, old)
    ended = range(first, first + swaps)
    wait_states(rest_port, MODEL, lambda s: all(s.get(v) == "END" for v in ended), "the old versions to end")


def rows_of(target: str, swaps: int, quiet_s: float) -> list[Row]:
    """A row for each face of one server."""
    transport, faces = TARGETS[target]
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as directory:
        base = Path(directory) / MODEL
        publish(source_of(1), base, 1)
        with Process(tfs.command(MODEL, base, transport, "--file_system_poll_wait_seconds=1")) as process:
            rest_port = process.launch.ports["rest"]
            quiet = under_load(process, faces, RATE, lambda: time.sleep(quiet_s))
            busy = under_load(process, faces, RATE, lambda: swap_versions(base, rest_port, 1, swaps))
    return [row(target, face, swaps, quiet[face], busy[face]) for face in faces]


def row(target: str, face: str, swaps: int, quiet: Load, busy: Load) -> Row:
    p99, before = busy["p99_us"], quiet["p99_us"]
    failed = quiet["failed"] + busy["failed"]
    wrong = quiet["wrong"] + busy["wrong"]
    return {
        "workload": MODEL,
        "target": target,
        "face": face,
        "figures": {
            "swaps": swaps, "sent": quiet["sent"] + busy["sent"], "failed": failed, "wrong": wrong,
            "quiet_p50_us": quiet["p50_us"], "quiet_p99_us": before, "p50_us": busy["p50_us"], "p99_us": p99, "max_us": busy["max_us"],
        },
        "errors": quiet["errors"] | busy["errors"],
        "reached": not failed and not wrong and (p99 <= 2 * before or p99 <= before + SLACK_US),
    }  # fmt: skip


def swap(effort: Effort) -> list[Row]:
    """Twenty version swaps under 300 calls per second on each face, beside the same load without swaps."""
    names, rows = present(TARGETS)
    for name in names:
        quiet_s = QUIET_SHORT_S if effort.short or effort.quick else QUIET_S
        rows += rows_of(name, SWAPS // 4 if effort.quick else SWAPS, quiet_s)
    return rows
