"""Triton's perf_analyzer as a second opinion: a load generator that others wrote, on grpc++, which speaks this API by itself.

It comes in PyPI's tritonclient 2.51.0, which `make bench` puts into bench/.cache/perf_analyzer with the CUDA runtime that it is linked
to; libb64 is a Debian package.  Where it cannot run the suite says why.  It sends from as many threads as calls are in flight, so it
takes more of the cores than h2load, which is measured beside it in the same rounds; and it stops at the first refusal.
Owns: its command line and reading what it prints.  Must not know: how targets are started.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path

from bench import loads, workloads
from bench.loads import Pressure
from bench.runner import CACHE, Process, alternate, medians
from bench.suites import Effort, Row, Sample, case, present, running, warm
from bench.workloads import Workload

PREFIX = CACHE / "perf_analyzer"
PROGRAM = PREFIX / "bin" / "perf_analyzer"
TARGETS = ("tfs-native", "tfs-grpcio", "tensorflow-serving")
WINDOWS = 3  # it merges the last three windows of time
SHORTEST_WINDOW_MS = 300
# column of its table -> ours
COLUMNS = {
    "Inferences/Second": "per_s",
    "p50 latency": "p50_us",
    "p90 latency": "p90_us",
    "p99 latency": "p99_us",
}


def environment() -> dict[str, str]:
    paths = [str(PREFIX / "nvidia" / "cuda_runtime" / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, paths))}


def missing(program: Path = PROGRAM) -> str | None:
    """Why it cannot run here, or None."""
    if not program.exists():
        return "not in bench/.cache/perf_analyzer: `make bench` puts it there where pip finds tritonclient 2.51.0 for this machine"
    try:
        tried = subprocess.run(
            [str(program), "--version"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except OSError as error:
        return f"{program.name}: {error.strerror}"
    said = (tried.stderr or tried.stdout).strip().splitlines()
    if tried.returncode == 0:
        return None
    return said[-1].removeprefix(f"{program}: ") if said else f"exit code {tried.returncode}"


def input_data(workload: Workload) -> str:
    """The request as its --input-data takes it."""
    tensors = {
        name: {"content": value.ravel().tolist(), "shape": list(value.shape)}
        for name, value in workload.inputs.items()
    }
    return json.dumps({"data": [tensors]})


def output(table: str, printed: str) -> Sample:
    """{per_s, mean_us, p50_us, p90_us, p99_us} out of its table (CSV) and what it printed.  Raises ValueError for anything else."""
    rows = list(csv.DictReader(io.StringIO(table)))
    mean = re.search(r"Avg gRPC time: (\d+) usec", printed)
    if len(rows) != 1 or not mean or not COLUMNS.keys() <= rows[0].keys():
        raise ValueError(f"perf_analyzer said something else:\n{table}{printed[-2000:]}")
    return {"mean_us": float(mean[1]), **{ours: float(rows[0][theirs]) for theirs, ours in COLUMNS.items()}}


def load(process: Process, workload: Workload, pressure: Pressure) -> Sample:
    """One run; the values of an answer are compared by a real client before and after, as with h2load."""
    port, call = process.launch.ports["grpc"], workload.grpc()
    loads.grpc_once(port, call)
    window_ms = max(SHORTEST_WINDOW_MS, round(pressure.seconds * 1000 / WINDOWS))
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as directory:
        data, table = Path(directory) / "data.json", Path(directory) / "table.csv"
        data.write_text(input_data(workload))
        shapes = [f"{name}:{','.join(map(str, value.shape))}" for name, value in workload.inputs.items()]
        command = [
            *(str(PROGRAM), "-m", workload.model, "--service-kind", "tfserving", "-i", "grpc"),
            *("-u", f"127.0.0.1:{port}", "--input-data", str(data), "-f", str(table), "--percentile", "99"),
            *("--concurrency-range", str(pressure.connections * pressure.streams)),
            # Whatever it finds after three windows is taken: rounds and medians are ours.
            *("-p", str(window_ms), "-r", str(WINDOWS), "-s", "99999999"),
            *(part for shape in shapes for part in ("--shape", shape)),
        ]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"perf_analyzer: exit code {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
            )
        found = output(table.read_text(), done.stdout)
    loads.grpc_once(port, call)
    return found


def perf_analyzer(effort: Effort) -> list[Row]:
    """Triton's perf_analyzer on half-plus-two, beside h2load with as many calls in flight."""
    workload = workloads.recorded("half_plus_two")
    names, rows = present(TARGETS)
    reason = missing()
    if reason is not None:
        rows.append({"target": "perf_analyzer", "missing": reason})
    with running(names, workload.model) as processes:
        for name in names:
            for pressure in (Pressure(1, 1, effort.seconds), Pressure(1, 16, effort.seconds)):
                one = case(name, "grpc", workload, pressure)
                warm(processes[name], one)
                runs = {
                    "h2load": partial(loads.grpc_load, processes[name], one.call, pressure, percentiles=True)
                }
                if reason is None:
                    runs["perf_analyzer"] = partial(load, processes[name], workload, pressure)
                for generator, samples in alternate(effort.rounds, runs).items():
                    rows.append(
                        {**one.row(), "generator": generator, "samples": samples, "median": medians(samples)}
                    )
    return rows
