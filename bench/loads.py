"""Loads a server with h2load (gRPC) or wrk (REST) and counts only right answers.

Owns: the command lines, reading their output, and what "right" means.  h2load counts HTTP statuses, and a failed gRPC call is an
HTTP 200: so the bytes of DATA are counted against the size that a right answer has (a refused call carries none), and before
and after every round one call is made with a real client and its values are compared.  wrk counts statuses other than 2xx by itself.
Must not know: how targets are started.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from bench.runner import Process

UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
TRIAL_S = 0.06
PATIENCE = 2  # how many calls per connection wrk must be able to make, however slow they are
LONGEST_S = 6.0
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]
WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency)
  local e = summary.errors
  print(string.format('RESULT {{"requests": %d, "us": %d, "bytes": %d, "bad": %d, "mean": %f, "p50": %f, "p99": %f}}',
    summary.requests, summary.duration, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency.mean, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Call:
    """One request and how to know a right answer."""

    path: str  # gRPC method path or REST path
    body: bytes
    is_right: Callable[[bytes], bool]


@dataclass(frozen=True)
class Pressure:
    """Connections, requests in flight on each, and how long.  With `rate` calls start so often per second (gRPC only), whether or not others
    have ended, with a deadline of `timeout_ms`; then `streams` is only the most that may be open."""

    connections: int
    streams: int
    seconds: float
    rate: float = 0
    timeout_ms: int = 0


def tools_missing() -> list[str]:
    return [tool for tool in ("h2load", "wrk") if shutil.which(tool) is None]


# --- gRPC -------------------------------------------------------------------------------------------------------------------------


def grpc_once(port: int, call: Call, timeout_s: float = 60, calls: int = 1) -> int:
    """Makes the call with a grpcio client, or so many of them; returns the answer's size.  Raises RuntimeError when one is not right."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        method = channel.unary_unary(call.path)
        for _ in range(calls):
            answer: bytes = method(call.body, timeout=timeout_s, wait_for_ready=True)
            if not call.is_right(answer):
                raise RuntimeError(f"a wrong answer for {call.path}: {answer[:200]!r}")
    return len(answer)


def grpc_load(
    process: Process, call: Call, pressure: Pressure, percentiles: bool = False
) -> dict[str, float]:
    """One round of h2load: {cpu_us, ok, wrong, per_s, mean_us, cores, generator_cores}; cpu_us is the server's, per right answer.  With `percentiles` also
    p50_us and p99_us, for which h2load writes a line per call: not for loads of 50,000 calls per second."""
    port = process.launch.ports["grpc"]
    size = grpc_once(port, call) + 5  # the frame's prefix
    with ExitStack() as stack:
        body = stack.enter_context(tempfile.NamedTemporaryFile(prefix="bench-body-"))
        body.write(b"\0" + len(call.body).to_bytes(4, "big") + call.body)
        body.flush()
        log = stack.enter_context(tempfile.NamedTemporaryFile(prefix="bench-log-")) if percentiles else None
        run = partial(h2load, port, call.path, body.name, pressure, log=log.name if log else "")
        key = (call.path, len(call.body), pressure)
        rate = (
            pressure.rate
            or process.rates.get(key)
            or trial_rate(partial(h2load, port, call.path, body.name, pressure), pressure)
        )
        before, took = process.cpu_s(), children_cpu_s()
        result = run(count=max(int(rate * pressure.seconds), 0 if pressure.rate else in_flight(pressure)))
        cpu, took = process.cpu_s() - before, children_cpu_s() - took
        times = response_times_us(log.name) if log else None
    if grpc_once(port, call) + 5 != size:
        raise RuntimeError(f"{process.launch.name}: the size of the answer changed during the round")
    if result["data"] % size:
        raise RuntimeError(
            f"{process.launch.name}: {result['data']:.0f} bytes of answers are no multiple of {size}"
        )
    ok, elapsed = result["data"] / size, max(result["elapsed"], 1e-6)
    process.rates[key] = result["done"] / elapsed
    sample = {
        "cpu_us": cpu / max(ok, 1) * 1e6,
        "ok": ok,
        "wrong": result["total"] - ok,
        "per_s": ok / elapsed,
        "mean_us": result["mean"] * 1e6,
        "cores": cpu / elapsed,
        "generator_cores": took / elapsed,
    }
    if times is not None:
        sample |= dict(zip(("p50_us", "p99_us"), map(float, np.percentile(times, (50, 99))), strict=True))
    return sample


def children_cpu_s() -> float:
    """User and system time of the children that have ended: the load generators."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def in_flight(pressure: Pressure) -> int:
    return pressure.connections * pressure.streams


def trial_rate(run: Callable[..., dict[str, float]], pressure: Pressure) -> float:
    """Calls per second as far as short runs can tell: each four times as long as the one before, until one takes TRIAL_S."""
    count = in_flight(pressure)
    while True:
        result = run(count=count)
        if result["elapsed"] >= TRIAL_S or not result["done"]:
            return result["done"] / max(result["elapsed"], 1e-6)
        count *= 4


def response_times_us(log: str) -> np.ndarray:
    """Out of the file that h2load's --log-file wrote: start, status and time of each call, by tabs."""
    return np.loadtxt(log, dtype=np.int64, usecols=2, ndmin=1)


def h2load(
    port: int, path: str, body: str, pressure: Pressure, count: int, *, log: str = ""
) -> dict[str, float]:
    command = [
        *("h2load", "-n", str(count), "-c", str(pressure.connections), "-m", str(pressure.streams)),
        *("-d", body, "-w", "24", "-W", "24", "-H", "content-type: application/grpc", "-H", "te: trailers"),
        *((f"--log-file={log}",) if log else ()),
        *((f"--rps={pressure.rate / pressure.connections}",) if pressure.rate else ()),
        *(("-H", f"grpc-timeout: {pressure.timeout_ms}m") if pressure.timeout_ms else ()),
        f"http://127.0.0.1:{port}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return h2load_output(done.stdout)


def h2load_output(text: str) -> dict[str, float]:
    """{total, done, data (bytes), mean (s), elapsed (s)} out of what h2load prints.  Raises ValueError for anything else."""
    finished = re.search(r"finished in ([\d.]+)(us|ms|s),", text)
    requests = re.search(r"requests: (\d+) total, \d+ started, (\d+) done", text)
    data = re.search(r"\((\d+)\) data", text)
    # min, max, mean, sd
    times = re.search(r"time for request: +\S+ +\S+ +([\d.]+)(us|ms|s)", text)
    if not (finished and requests and data and times):
        raise ValueError(f"h2load said something else:\n{text}")
    return {
        "total": float(requests[1]),
        "done": float(requests[2]),
        "data": float(data[1]),
        "mean": float(times[1]) * UNITS_S[times[2]],
        "elapsed": float(finished[1]) * UNITS_S[finished[2]],
    }


# --- REST -------------------------------------------------------------------------------------------------------------------------


def rest_once(port: int, call: Call, timeout_s: float = 60, calls: int = 1) -> int:
    """Makes the call with `requests`, or so many of them; returns the answer's size.  Raises RuntimeError when one is not right."""
    import requests

    with requests.Session() as session:
        for _ in range(calls):
            answer = session.post(
                f"http://127.0.0.1:{port}{call.path}",
                data=call.body,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                timeout=timeout_s,
            )
            if answer.status_code != 200 or not call.is_right(answer.content):
                raise RuntimeError(
                    f"a wrong answer for {call.path}: {answer.status_code} {answer.content[:200]!r}"
                )
    return len(answer.content)


def rest_load(process: Process, call: Call, pressure: Pressure) -> dict[str, float]:
    """One round of wrk: {cpu_us, ok, wrong, per_s, mean_us, p50_us, p99_us, cores}; without a right answer only ok, wrong, per_s and cores.
    pressure.streams is not used.  Where calls take long the round does too: wrk counts only those that end in it."""
    port = process.launch.ports["rest"]
    started = time.monotonic()
    size = rest_once(port, call)
    alone_s = time.monotonic() - started
    seconds = max(1, round(max(pressure.seconds, min(LONGEST_S, PATIENCE * pressure.connections * alone_s))))
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as directory:
        body, script = Path(directory) / "body.json", Path(directory) / "post.lua"
        body.write_bytes(call.body)
        script.write_text(WRK_SCRIPT.format(body=body))
        command = [
            *("wrk", "-t", "1", "-c", str(pressure.connections), "-d", f"{seconds}s", "--timeout", "30s"),
            *("-s", str(script), f"http://127.0.0.1:{port}{call.path}"),
        ]
        before, started = process.cpu_s(), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        elapsed, cpu = time.monotonic() - started, process.cpu_s() - before
    result = json.loads(done.stdout.partition("RESULT ")[2].splitlines()[0])
    rest_once(port, call)
    ok = result["requests"] - result["bad"]
    if result["bytes"] < ok * size:
        raise RuntimeError(f"{process.launch.name}: {result['bytes']} bytes for {ok} answers of {size}")
    if not ok:
        return {"ok": 0, "wrong": result["bad"], "per_s": 0.0, "cores": cpu / elapsed}
    return {
        "cpu_us": cpu / ok * 1e6,
        "ok": ok,
        "wrong": result["bad"],
        "per_s": ok / (result["us"] / 1e6),
        "mean_us": result["mean"],
        "p50_us": result["p50"],
        "p99_us": result["p99"],
        "cores": cpu / elapsed,
    }
