"""The benches that look at one hard situation each: large tensors, bad neighbours, many connections, long runs.

Owns: those situations.  Each function returns rows for a result file, like the suites; `figures` in a row are plain numbers.
Must not know: how results are drawn or judged.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import grpc
import numpy as np

from bench import bare, loads, workloads
from bench.load import PREFACE, SETTINGS, frame
from bench.loads import CHANNEL_OPTIONS, Call, Pressure
from bench.runner import Process, alternate, medians
from bench.suites import Effort, Row, Sample, case, figures_row, open_loop, running, warm
from bench.targets import tfs

MIB16 = 1 << 22  # floats
IDLE_CONNECTIONS = 1000
OPENED_AND_CLOSED = 10_000
SOAK_CALLS = 10_000_000
SOAK_ROUND_S = 5.0
SOAK_SHORT_S = 60.0
# malloc gives every large buffer back at once, so that what a call adds is what it needs
KEEP_NOTHING = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}


@contextmanager
def server(
    models: Mapping[str, str],
    *flags: str,
    transport: str = "native",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Process]:
    """One server of several models: name -> directory of the example models."""
    with tempfile.TemporaryDirectory(prefix="bench-models-") as directory:
        lines = [
            f'config {{ name: "{name}" base_path: "{workloads.directory() / model}" model_platform: "tensorflow" }}'
            for name, model in models.items()
        ]
        config = Path(directory) / "models.config"
        config.write_text("model_config_list {\n" + "\n".join(lines) + "\n}\n")
        launch = tfs.command("unused", Path(directory), transport, f"--model_config_file={config}", *flags)
        with Process(replace(launch, environment={**launch.environment, **environment})) as process:
            yield process


# --- 16 MiB there and back ----------------------------------------------------------------------------------------------------------------


def large(effort: Effort) -> list[Row]:
    """A 16 MiB tensor there and back over grpcio, beside an echo of the same bytes; and what it takes of memory."""
    workload = workloads.echo(MIB16)
    call = workload.grpc(content=True)
    echo = Call("/bench.Echo/Echo", call.body, lambda answer: len(answer) == len(call.body))
    with (
        running(["grpcio-echo"], "echo") as floor,
        running(["tfs-grpcio"], "echo") as ours,
        ExitStack() as stack,
    ):
        fresh = {name: process.rss_mb() for name, process in (floor | ours).items()}
        floor_call = repeated_call(stack, floor["grpcio-echo"], echo)
        our_call = repeated_call(stack, ours["tfs-grpcio"], call)
        samples = alternate(
            effort.rounds * 4, {"grpcio-echo": floor_call, "tfs-grpcio": our_call, "copies": copies}
        )
        above_start = {
            name: (process.peak_rss_mb() - fresh[name]) * (1 << 20) / (MIB16 * 4)
            for name, process in (floor | ours).items()
        }
    with server({"echo": "echo"}, transport="grpcio", environment=KEEP_NOTHING) as process:
        loads.grpc_once(process.launch.ports["grpc"], call)
        growth = statistics.median(peak_growth(process, call) for _ in range(5)) / (MIB16 * 4)
    rows: list[Row] = [
        {
            "workload": workload.name,
            "target": name,
            "face": "grpc",
            "samples": found,
            "median": medians(found),
        }
        for name, found in samples.items()
    ]
    run = bare.run(workload, runs=20, rounds=effort.rounds)
    rows.append({"workload": workload.name, "target": "bare", "samples": run, "median": medians(run)})
    return [
        *rows,
        figures_row(
            workload.name, "tfs-grpcio",
            peak_growth_tensors=growth,
            above_start_tensors=above_start["tfs-grpcio"], echo_above_start_tensors=above_start["grpcio-echo"],
        ),
    ]  # fmt: skip


def repeated_call(stack: ExitStack, process: Process, call: Call) -> Callable[[], Sample]:
    """A function that makes the call once on a channel that stays open, and times it."""
    target = f"127.0.0.1:{process.launch.ports['grpc']}"
    channel = stack.enter_context(grpc.insecure_channel(target, options=CHANNEL_OPTIONS))
    method = channel.unary_unary(call.path)
    for _ in range(3):
        if not call.is_right(method(call.body, timeout=60)):
            raise RuntimeError(f"{process.launch.name}: a wrong answer to the large request")

    def once() -> Sample:
        started, before = time.perf_counter(), process.cpu_s()
        method(call.body, timeout=60)
        return {"mean_us": (time.perf_counter() - started) * 1e6, "cpu_us": (process.cpu_s() - before) * 1e6}

    return once


def copies() -> Sample:
    """Two copies of the tensor into fresh memory."""
    source = np.ones(MIB16, np.float32)
    started = time.perf_counter()
    first = source.copy()
    second = first.copy()
    elapsed = time.perf_counter() - started
    return {"mean_us": elapsed * 1e6, "check": float(second[0])}


def peak_growth(process: Process, call: Call) -> float:
    """Bytes by which the resident set rose at its highest during one call."""
    before = process.rss_mb()
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the highest mark starts again from here
    loads.grpc_once(process.launch.ports["grpc"], call)
    return (process.peak_rss_mb() - before) * (1 << 20)


# --- neighbours ---------------------------------------------------------------------------------------------------------------------------


def isolation(effort: Effort) -> list[Row]:
    """A fast model beside a saturated slow one on the same connection; and one connection that must use all cores."""
    fast = case("tfs-native", "grpc", workloads.recorded("half_plus_two"), Pressure(1, 1, 2 * effort.seconds))
    slow = workloads.repeated("mnist_large", 16).grpc().body
    many = case("tfs-native", "grpc", workloads.recorded("mnist_large", 1), Pressure(1, 64, effort.seconds))
    with server({"half_plus_two": "half_plus_two", "mnist_large": "mnist_large"}) as process:
        for one in (fast, many):
            warm(process, one)
        samples = alternate(
            effort.rounds,
            {
                "alone": lambda: open_loop(process, fast, 200),
                "beside": lambda: open_loop(process, fast, 200, beside=slow, beside_calls=32),
                "one connection": lambda: loads.grpc_load(process, many.call, many.pressure),
            },
        )
    return [
        {"workload": name, "target": "tfs-native", "face": "grpc", "samples": found, "median": medians(found)}
        for name, found in samples.items()
    ]


# --- connections and time -----------------------------------------------------------------------------------------------------------------


def opened(port: int) -> socket.socket:
    """An HTTP/2 connection whose settings have been exchanged."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(PREFACE + frame(SETTINGS, 0, 0))
    sock.recv(64)
    return sock


def connections(effort: Effort) -> list[Row]:
    """Memory of a thousand idle connections, and after ten thousand were opened and closed under load."""
    workload = workloads.recorded("half_plus_two")
    count = OPENED_AND_CLOSED if not effort.quick else OPENED_AND_CLOSED // 10
    with running(["tfs-native"], workload.model) as processes:
        process = processes["tfs-native"]
        port, call = process.launch.ports["grpc"], workload.grpc()
        loads.grpc_load(process, call, Pressure(4, 16, effort.seconds))
        before = process.rss_mb()
        held = [opened(port) for _ in range(IDLE_CONNECTIONS)]
        idle = process.rss_mb() - before
        for sock in held:
            sock.close()
        done = threading.Event()
        load = threading.Thread(target=keep_loading, args=(process, call, done))
        load.start()
        try:
            for _ in range(count // 10):
                opened(port).close()
            settled = process.rss_mb()
            for _ in range(count):
                opened(port).close()
        finally:
            done.set()
            load.join()
        after = process.rss_mb()
    return [figures_row(
        "connections", "tfs-native",
        idle_mb=idle, idle_connections=IDLE_CONNECTIONS, churned=count, growth_percent=(after / settled - 1) * 100,
    )]  # fmt: skip


def keep_loading(process: Process, call: Call, done: threading.Event) -> None:
    while not done.is_set():
        with suppress(subprocess.SubprocessError):
            loads.grpc_load(process, call, Pressure(2, 4, 0.5))


def soak(effort: Effort) -> list[Row]:
    """Ten million calls: resident memory after the first tenth and at the end.  Among others it ends after a minute, with as many calls
    as those are."""
    workload = workloads.recorded("half_plus_two")
    total = SOAK_CALLS if not effort.quick else SOAK_CALLS // 100
    round_s = SOAK_ROUND_S if not effort.quick else effort.seconds
    with running(["tfs-native"], workload.model) as processes:
        process = processes["tfs-native"]
        started, done, resident = time.monotonic(), 0.0, []
        while done < total and not (effort.short and time.monotonic() - started > SOAK_SHORT_S):
            done += loads.grpc_load(process, workload.grpc(), Pressure(4, 64, round_s))["ok"]
            resident.append((done, process.rss_mb()))
    settled = next(mb for calls, mb in resident if calls >= done / 10)
    last = resident[-1][1]
    return [
        {
            **figures_row(
                "half_plus_two",
                "tfs-native",
                calls=done,
                settled_mb=settled,
                end_mb=last,
                growth_percent=(last / settled - 1) * 100,
            ),
            "resident_mb": resident,
        }
    ]
