"""The benches of batching: what it gains, what a lone client pays, overload, throughput against latency, bad members.

Owns: the batching settings that are measured.  Each function returns rows for a result file, like the suites.  Must not know: how results
are drawn or judged.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from bench import loads, workloads
from bench.loads import Pressure
from bench.runner import Process, alternate, medians
from bench.stress import server
from bench.suites import Case, Effort, Row, case, figures_row, open_loop, warm
from bench.workloads import Workload

BATCHING = """max_batch_size {{ value: {rows} }}
batch_timeout_micros {{ value: {timeout_us} }}
max_enqueued_batches {{ value: 1000 }}
num_batch_threads {{ value: 2 }}
"""


@dataclass(frozen=True)
class Setting:
    """A server by its batching file; no rows: batching is off."""

    name: str
    rows: int = 0
    timeout_us: int = 0


UNBATCHED = Setting("unbatched")
BATCHED = Setting("batched", 32, 1000)
# What the picture compares: the same model, five ways to run a server.
SETTINGS = (
    UNBATCHED,
    Setting("8 rows, at once", 8, 0),
    Setting("32 rows, at once", 32, 0),
    Setting("32 rows or 1 ms", 32, 1000),
    Setting("32 rows or 5 ms", 32, 5000),
)
LEVELS = (1, 4, 16, 64, 256)  # calls in flight
OVERLOAD_S = 2.0
DEADLINE_MS = 50
MARGIN_MS = 5  # the server is told so much less, so that no answer that counts comes after the deadline
MOST_OPEN = 1000  # per connection; at the deadline calls are answered, so it is never reached


@contextmanager
def batching_server(setting: Setting, *models: str) -> Iterator[Process]:
    """The example models under their own names."""
    table = {name: name for name in models}
    if not setting.rows:
        with server(table) as process:
            yield process
        return
    with tempfile.NamedTemporaryFile("w", prefix="bench-batching-", suffix=".config") as file:
        file.write(BATCHING.format(rows=setting.rows, timeout_us=setting.timeout_us))
        file.flush()
        with server(table, "--enable_batching", f"--batching_parameters_file={file.name}") as process:
            yield process


def batching(effort: Effort) -> list[Row]:
    """The larger CNN with and without batching: 64 calls in flight, one call at a time, and twice what it can do with 50 ms deadlines."""
    rows: list[Row] = []
    models = ("mnist_large", "mnist")
    with ExitStack() as stack:
        servers = {
            one.name: stack.enter_context(batching_server(one, *models)) for one in (UNBATCHED, BATCHED)
        }
        for name in models:
            workload = workloads.recorded(name, 1)
            for pressure in (Pressure(4, 16, effort.seconds), Pressure(1, 1, effort.seconds)):
                rows += side_by_side(servers, workload, pressure, effort.rounds)
        rows += overload(servers[BATCHED.name], effort)
    return rows


def side_by_side(
    servers: Mapping[str, Process], workload: Workload, pressure: Pressure, rounds: int
) -> list[Row]:
    """Alternating rounds of the same closed loop on each of the servers, percentiles included."""
    one = case("tfs-native", "grpc", workload, pressure)
    for process in servers.values():
        warm(process, one)
    runs = {
        name: partial(loads.grpc_load, process, one.call, pressure, percentiles=True)
        for name, process in servers.items()
    }
    return [
        {**one.row(), "target": name, "samples": found, "median": medians(found)}
        for name, found in alternate(rounds, runs).items()
    ]


def batch_latency(effort: Effort) -> list[Row]:
    """Throughput against latency of the larger CNN, by batching file: each point is a closed loop of 1 to 256 calls in flight."""
    rows: list[Row] = []
    workload = workloads.recorded("mnist_large", 1)
    with ExitStack() as stack:
        servers = {one.name: stack.enter_context(batching_server(one, "mnist_large")) for one in SETTINGS}
        for level in LEVELS[::2] if effort.quick else LEVELS:
            connections = min(level, 4)
            pressure = Pressure(connections, level // connections, effort.seconds)
            rows += side_by_side(servers, workload, pressure, effort.rounds)
    return rows


def overload(process: Process, effort: Effort) -> list[Row]:
    """Requests of eight images at twice the rate that the server can answer.  Capacity is that of a closed loop of the same generator over
    as many connections, measured before and after every round of overload: the machine's speed wanders within seconds."""
    workload = workloads.repeated("mnist_large", 8)
    seconds = max(effort.seconds, OVERLOAD_S)
    one = case("tfs-native", "grpc", workload, Pressure(4, 16, seconds))
    warm(process, one)
    capacity = partial(loads.grpc_load, process, one.call, one.pressure, percentiles=True)
    closed, found = [capacity()], []
    for _ in range(effort.rounds + 2):
        twice = Pressure(
            4, MOST_OPEN, seconds, rate=2 * closed[-1]["per_s"], timeout_ms=DEADLINE_MS - MARGIN_MS
        )
        found.append(loads.grpc_load(process, one.call, twice, percentiles=True))
        closed.append(capacity())
    shares = [
        under["per_s"] / statistics.mean((before["per_s"], after["per_s"]))
        for (before, after), under in zip(pairwise(closed), found, strict=True)
    ]
    rows: list[Row] = [
        {**one.row(), "target": "capacity", "samples": closed, "median": medians(closed)},
        {
            **one.row(),
            "target": "overloaded",
            "streams": MOST_OPEN,
            "samples": found,
            "median": medians(found),
        },
    ]
    return [
        *rows,
        figures_row(
            workload.name, "overloaded",
            goodput_of_capacity=statistics.median(shares), generator_cores=medians(found)["generator_cores"],
            generator_cores_at_capacity=medians(closed)["generator_cores"],
        ),
    ]  # fmt: skip


def poison(effort: Effort) -> list[Row]:
    """Batching on: good calls beside misshapen ones, and beside ones whose values make the run fail."""
    good = case("tfs-native", "grpc", workloads.recorded("half_plus_two"), Pressure(2, 1, 2 * effort.seconds))
    request = Workload(
        "poison", "poison", {"x": np.array([1, 2], np.float32)}, {"y": np.array([2.5, 3], np.float32)}
    )
    good = Case(**{**good.__dict__, "workload": "poison", "call": request.grpc()})
    bad = {
        "misshapen": workloads.predict_request("poison", {"x": np.ones((2, 3), np.float32)}, False),
        "bad values": workloads.predict_request("poison", {"x": np.array([np.nan, 1], np.float32)}, False),
    }
    rows = []
    with batching_server(BATCHED, "poison") as process:
        warm(process, good)
        for name, body in bad.items():
            found = [open_loop(process, good, 500, beside=body, beside_calls=8) for _ in range(effort.rounds)]
            rows.append(
                {
                    "workload": name,
                    "target": "tfs-native",
                    "face": "grpc",
                    "samples": found,
                    "median": medians(found),
                }
            )
    return rows
