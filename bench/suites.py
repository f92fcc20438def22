"""The named benches: which targets, which workloads, which pressure.

Owns: the measuring loops.  Every suite returns rows; a row names the workload, the target, the face, the
encoding and the pressure, and carries all samples beside their medians.  Must not know: how results are drawn or judged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import bare, loads, workloads
from bench.loads import Call, Pressure
from bench.runner import ROOT, Process, alternate, medians
from bench.targets import Target, all_targets
from bench.workloads import Workload

Row = dict[str, Any]
Sample = dict[str, float]
MODEL_OF_FLOORS = "half_plus_two"
LARGE_BODY = 1 << 20
RIVALS = ("grpcio-tensorflow", "fastapi-tensorflow")


@dataclass(frozen=True)
class Effort:
    """How long and how often; `quick` also thins the tables; `short` is one suite of many: what would take minutes is cut."""

    rounds: int
    seconds: float
    quick: bool = False
    short: bool = False


@dataclass(frozen=True)
class Case:
    """One line of a table: this call on this target under this pressure."""

    target: str
    face: str
    workload: str
    call: Call
    pressure: Pressure
    encoding: str = "typed"

    def row(self) -> Row:
        return {
            "workload": self.workload,
            "target": self.target,
            "face": self.face,
            "encoding": self.encoding,
            "connections": self.pressure.connections,
            "streams": self.pressure.streams,
            "request_bytes": len(self.call.body),
        }


def figures_row(workload: str, target: str, **figures: float) -> Row:
    """A row of plain numbers instead of samples."""
    return {"workload": workload, "target": target, "figures": figures}


def case(
    target: str, face: str, workload: Workload | None, pressure: Pressure, encoding: str = "typed"
) -> Case:
    """The Case of a workload, or with None of the floors' empty call."""
    if workload is None:
        return Case(
            target, face, "empty", workloads.EMPTY if face == "grpc" else workloads.CONSTANT, pressure, "none"
        )
    if face == "rest":
        return Case(target, face, workload.name, workload.rest(), pressure, "json")
    return Case(target, face, workload.name, workload.grpc(encoding == "content"), pressure, encoding)


def present(names: Iterable[str]) -> tuple[list[str], list[Row]]:
    """The targets that can run here, and a row with the reason for each that cannot."""
    targets = all_targets()
    reasons = {name: targets[name].missing() for name in names}
    return (
        [name for name, reason in reasons.items() if reason is None],
        [{"target": name, "missing": reason} for name, reason in reasons.items() if reason is not None],
    )


@contextmanager
def running(targets: Iterable[str], model: str) -> Iterator[dict[str, Process]]:
    """All of them at once, idle but for the one under load; they start at the same time, so how long that took says nothing."""
    table: Mapping[str, Target] = all_targets()
    base = workloads.directory() / model
    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:
            starting = {name: pool.submit(Process, table[name].launch(model, base)) for name in targets}
        for one in starting.values():
            if one.exception() is None:
                stack.enter_context(one.result())
        yield {name: one.result() for name, one in starting.items()}


def measure(model: str, cases: Sequence[Case], effort: Effort) -> list[Row]:
    """Alternating closed-loop rounds of all cases on one model."""
    names, missing = present(dict.fromkeys(one.target for one in cases))
    cases = [one for one in cases if one.target in names]
    with running(names, model) as processes:
        load = {"grpc": loads.grpc_load, "rest": loads.rest_load}
        runs = {
            str(number): partial(load[one.face], processes[one.target], one.call, one.pressure)
            for number, one in enumerate(cases)
        }
        for one in cases:  # the first runs of a model are slow everywhere: not counted
            warm(processes[one.target], one)
        samples = alternate(effort.rounds, runs)
        rows = []
        for number, one in enumerate(cases):
            process, mine = processes[one.target], samples[str(number)]
            rows.append({
                **one.row(), "model": model, "samples": mine, "median": medians(mine),
                "rss_mb": process.rss_mb(), "peak_rss_mb": process.peak_rss_mb(), "flags": list(process.launch.command[3:]),
            })  # fmt: skip
    return rows + missing


def warm(process: Process, one: Case, calls: int = 30) -> None:
    once = loads.grpc_once if one.face == "grpc" else loads.rest_once
    once(process.launch.ports[one.face], one.call, calls=calls if len(one.call.body) < LARGE_BODY else 2)


# --- the suites -----------------------------------------------------------------------------------------------------------------------


def transport(effort: Effort) -> list[Row]:
    """gRPC against the empty grpcio.aio echo: 4 connections x 16 streams, and one call at a time."""
    busy, alone = Pressure(4, 16, effort.seconds), Pressure(1, 1, effort.seconds)
    rows: list[Row] = []
    for name, rows_of in (("half_plus_two", None), ("mnist", 1)):
        workload = workloads.recorded(name, rows_of)
        cases = [
            *(case("grpcio-echo", "grpc", None, pressure) for pressure in (busy, alone)),
            *(
                case(target, "grpc", workload, pressure)
                for target in ("tfs-native", "tfs-grpcio", "tensorflow-serving")
                for pressure in (busy, alone)
            ),
        ]
        rows += measure(name, cases, effort)
        rows.append(bare_row(workload, effort))
    return rows


def bare_row(workload: Workload, effort: Effort) -> Row:
    samples = bare.run(workload, rounds=effort.rounds)
    return {
        "workload": workload.name,
        "model": workload.model,
        "target": "bare",
        "samples": samples,
        "median": medians(samples),
    }


def rest(effort: Effort) -> list[Row]:
    """REST against a constant uvicorn answer: 16 connections, three floats and one MNIST image (17 kB of JSON)."""
    pressure = Pressure(16, 1, effort.seconds)
    rows: list[Row] = []
    for name, rows_of in (("half_plus_two", None), ("mnist", 1)):
        workload = replace(workloads.recorded(name, rows_of), all_digits=True)
        targets = ["tfs-native", "fastapi-tensorflow", "tensorflow-serving"]
        if name == "half_plus_two" and not effort.quick:
            targets.append("litserve-tensorflow")
        cases = [case("uvicorn-constant", "rest", None, pressure)]
        cases += [case(target, "rest", workload, pressure) for target in targets]
        rows += measure(name, cases, effort)
    return rows


def sides(effort: Effort) -> list[Row]:
    """Every workload: gRPC (typed fields, tensor_content) beside REST JSON, ours beside the rivals."""
    rows: list[Row] = []
    chosen = workloads.standard()[:2] if effort.quick else workloads.standard()
    for workload in chosen:
        grpc, http = Pressure(4, 4, effort.seconds), Pressure(16, 1, effort.seconds)
        if (
            len(workload.rest().body) > LARGE_BODY
        ):  # of such calls a hand-written server answers about one per second
            http = Pressure(2, 1, effort.seconds)
        cases = [
            case("tfs-native", "grpc", workload, grpc),
            case("tfs-native", "grpc", workload, grpc, "content"),
            case("tfs-native", "rest", workload, http),
            case("tfs-grpcio", "grpc", workload, grpc),
            case("tensorflow-serving", "grpc", workload, grpc),
            case("tensorflow-serving", "rest", workload, http),
            case("grpcio-tensorflow", "grpc", workload, grpc),
            case("fastapi-tensorflow", "rest", workload, http),
        ]
        rows += measure(workload.model, cases, effort)
    return rows


def concurrency(effort: Effort) -> list[Row]:
    """Throughput against calls in flight, half-plus-two."""
    workload = workloads.recorded("half_plus_two")
    levels = [1, 16, 64] if effort.quick else [1, 4, 16, 64, 256]
    targets = [
        ("tfs-native", "grpc"),
        ("tfs-grpcio", "grpc"),
        ("grpcio-tensorflow", "grpc"),
        ("tfs-native", "rest"),
    ]
    targets += [
        ("fastapi-tensorflow", "rest"),
        ("tensorflow-serving", "grpc"),
        ("tensorflow-serving", "rest"),
    ]
    cases = []
    for target, face in targets:
        for level in levels:
            connections = min(level, 4) if face == "grpc" else level
            pressure = Pressure(connections, level // connections, effort.seconds)
            cases.append(case(target, face, workload, pressure))
    return measure(workload.model, cases, effort)


def payload(effort: Effort) -> list[Row]:
    """Cost against size: an echo of 1 float to 16 MiB, by encoding."""
    counts = [1, 1 << 10, 1 << 18] if effort.quick else [1, 1 << 6, 1 << 10, 1 << 14, 1 << 18, 1 << 22]
    cases = []
    for count in counts:
        workload, pressure = workloads.echo(count), Pressure(2, 2 if count < 1 << 20 else 1, effort.seconds)
        cases.append(case("tfs-native", "grpc", workload, pressure))
        cases.append(case("tfs-native", "grpc", workload, pressure, "content"))
        if count <= 1 << 18:
            cases.append(case("tfs-native", "rest", workload, Pressure(4, 1, effort.seconds)))
    return measure("echo", cases, effort)


def batch_size(effort: Effort) -> list[Row]:
    """Cost against rows per request, MNIST."""
    cases = []
    for rows in [1, 32] if effort.quick else [1, 4, 16, 64, 256]:
        workload = workloads.repeated("mnist", rows)
        cases.append(case("tfs-native", "grpc", workload, Pressure(4, 2, effort.seconds)))
        cases.append(case("tfs-native", "rest", workload, Pressure(8, 1, effort.seconds)))
    return measure("mnist", cases, effort)


def latency(effort: Effort) -> list[Row]:
    """Open-loop percentiles at the same arrival rate for everybody, and at a tenth of it."""
    rows: list[Row] = []
    workload = workloads.recorded("mnist", 1)
    targets = [
        ("tfs-native", "grpc"),
        ("tfs-grpcio", "grpc"),
        ("tfs-native", "rest"),
        ("grpcio-tensorflow", "grpc"),
    ]
    targets += [
        ("fastapi-tensorflow", "rest"),
        ("tensorflow-serving", "grpc"),
        ("tensorflow-serving", "rest"),
    ]
    for target, face in targets:
        names, missing = present([target])
        rows += missing
        if not names:
            continue
        with running(names, workload.model) as processes:
            for rate in (50, 300) if effort.quick else (50, 300, 2000):
                one = case(target, face, workload, Pressure(8, 1, effort.seconds))
                warm(processes[target], one)
                samples = [open_loop(processes[target], one, rate) for _ in range(effort.rounds)]
                rows.append({**one.row(), "rate": rate, "samples": samples, "median": medians(samples)})
    return rows


def open_loop(
    process: Process,
    one: Case,
    rate: float,
    *,
    beside: bytes = b"",
    beside_calls: int = 0,
) -> Sample:
    """One run of bench.load in its own process; `beside`, … as its flags."""
    port = process.launch.ports[one.face]
    size = (loads.grpc_once if one.face == "grpc" else loads.rest_once)(port, one.call)
    with tempfile.TemporaryDirectory(prefix="bench-body-") as directory:
        bodies = [Path(directory) / "body", Path(directory) / "beside"]
        for path, content in zip(bodies, (one.call.body, beside), strict=True):
            path.write_bytes(content)
        command = [
            *(
                sys.executable,
                "-m",
                "bench.load",
                f"--face={one.face}",
                f"--port={port}",
                f"--path={one.call.path}",
            ),
            *(f"--body={bodies[0]}", f"--size={size}", f"--rate={rate}", f"--seconds={one.pressure.seconds}"),
            f"--connections={one.pressure.connections}",
            *(f"--beside={bodies[1]}", f"--beside_calls={beside_calls}"),
        ]
        before = process.cpu_s()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        cpu = process.cpu_s() - before
    result: Sample = json.loads(done.stdout)
    return {**result, "cpu_us": cpu / max(result["ok"], 1) * 1e6}


def start(effort: Effort) -> list[Row]:
    """From exec to open ports with half-plus-two, and resident memory then; beside the bare dlopen + load."""
    names, rows = present(
        ["tfs-native", "tfs-grpcio", "grpcio-tensorflow", "fastapi-tensorflow", "tensorflow-serving"]
    )
    table = all_targets()
    base = workloads.directory() / MODEL_OF_FLOORS

    def once(name: str) -> dict[str, float]:
        with Process(table[name].launch(MODEL_OF_FLOORS, base)) as process:
            return {
                "start_s": process.start_s,
                "rss_mb": process.rss_mb(),
                "peak_rss_mb": process.peak_rss_mb(),
            }

    runs: dict[str, Callable[[], dict[str, float]]] = {name: partial(once, name) for name in names}
    runs["bare"] = partial(bare.load, MODEL_OF_FLOORS)
    runs["bare"]()  # page cache
    slow = {name: runs.pop(name) for name in RIVALS if name in runs}  # seconds each, and far from every bound
    found = alternate(effort.rounds + 1, runs) | alternate(max(1, effort.rounds - 1), slow)
    for name, samples in found.items():
        rows.append(
            {"workload": MODEL_OF_FLOORS, "target": name, "samples": samples, "median": medians(samples)}
        )
    return rows
