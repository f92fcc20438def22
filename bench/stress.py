"""The benches that look at one hard situation each: large tensors, bad neighbours, many connections, batches, long runs.

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
from pathlib import Path

import grpc
import numpy as np

from bench import bare, loads, workloads
from bench.load import PREFACE, SETTINGS, frame
from bench.loads import CHANNEL_OPTIONS, Call, Pressure
from bench.runner import Process, alternate, medians
from bench.suites import Case, Effort, Row, Sample, case, open_loop, running, warm
from bench.targets import tfs
from bench.workloads import Workload

MIB16 = 1 << 22  # floats
IDLE_CONNECTIONS = 1000
OPENED_AND_CLOSED = 10_000
SOAK_CALLS = 10_000_000
BATCHING = """max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: {timeout_us} }}
max_enqueued_batches {{ value: 1000 }}
num_batch_threads {{ value: 2 }}
"""
BATCH_TIMEOUT_US = 1000
OVERLOAD_S = 2.0
DEADLINE_MS = 50


def figures_row(workload: str, target: str, **figures: float) -> Row:
    return {"workload": workload, "target": target, "figures": figures}


@contextmanager
def server(models: Mapping[str, str], *flags: str, transport: str = "native") -> Iterator[Process]:
    """One server of several models: name -> directory of the example models."""
    with tempfile.TemporaryDirectory(prefix="bench-models-") as directory:
        lines = [
            f'config {{ name: "{name}" base_path: "{workloads.directory() / model}" model_platform: "tensorflow" }}'
            for name, model in models.items()
        ]
        config = Path(directory) / "models.config"
        config.write_text("model_config_list {\n" + "\n".join(lines) + "\n}\n")
        launch = tfs.command("unused", Path(directory), transport, f"--model_config_file={config}", *flags)
        with Process(launch) as process:
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
        floor_call = repeated_call(stack, floor["grpcio-echo"], echo)
        our_call = repeated_call(stack, ours["tfs-grpcio"], call)
        samples = alternate(
            effort.rounds * 4, {"grpcio-echo": floor_call, "tfs-grpcio": our_call, "copies": copies}
        )
        growth = peak_growth(ours["tfs-grpcio"], call) / (MIB16 * 4)
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
    return [*rows, figures_row(workload.name, "tfs-grpcio", peak_growth_tensors=growth)]


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
    with batching_server({"poison": "poison"}) as process:
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


# --- batches ------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def batching_server(models: Mapping[str, str]) -> Iterator[Process]:
    with tempfile.NamedTemporaryFile("w", prefix="bench-batching-", suffix=".config") as file:
        file.write(BATCHING.format(timeout_us=BATCH_TIMEOUT_US))
        file.flush()
        with server(models, "--enable_batching", f"--batching_parameters_file={file.name}") as process:
            yield process


def batching(effort: Effort) -> list[Row]:
    """The larger CNN with and without batching: 64 calls in flight, one call at a time, and twice what it can do with 50 ms deadlines."""
    rows: list[Row] = []
    models = {"mnist_large": "mnist_large", "mnist": "mnist"}
    with server(models) as plain, batching_server(models) as batched:
        servers = {"unbatched": plain, "batched": batched}
        for name in models:
            workload = workloads.recorded(name, 1)
            for pressure in (Pressure(4, 16, effort.seconds), Pressure(1, 1, effort.seconds)):
                one = case("tfs-native", "grpc", workload, pressure)
                for process in servers.values():
                    warm(process, one)
                runs = {
                    label: (lambda process=process, one=one: loads.grpc_load(process, one.call, one.pressure))
                    for label, process in servers.items()
                }
                for label, found in alternate(effort.rounds, runs).items():
                    rows.append({**one.row(), "target": label, "samples": found, "median": medians(found)})
        rows += overload(batched, effort)
    return rows


def overload(process: Process, effort: Effort) -> list[Row]:
    """Requests of eight images at twice the rate that the server can answer.  Capacity is that of a closed loop of the same generator over
    as many connections, measured before every round of overload: both rates are taken from the same cores in the same minute."""
    workload = workloads.repeated("mnist_large", 8)
    one = case("tfs-native", "grpc", workload, Pressure(4, 16, max(effort.seconds, OVERLOAD_S)))
    warm(process, one)
    rate = loads.grpc_load(process, one.call, one.pressure)["per_s"]
    closed, found = [], []
    for _ in range(effort.rounds):
        closed.append(open_loop(process, one, rate, in_flight=64))
        rate = closed[-1]["per_s"]
        found.append(open_loop(process, one, 2 * rate, timeout_ms=DEADLINE_MS))
    shares = [under["good_per_s"] / alone["per_s"] for alone, under in zip(closed, found, strict=True)]
    rows: list[Row] = [
        {**one.row(), "target": name, "samples": samples, "median": medians(samples)}
        for name, samples in (("capacity", closed), ("overloaded", found))
    ]
    return [*rows, figures_row(workload.name, "overloaded", goodput_of_capacity=statistics.median(shares))]


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
    """Ten million calls: resident memory after the first tenth and at the end."""
    workload = workloads.recorded("half_plus_two")
    total = SOAK_CALLS if not effort.quick else SOAK_CALLS // 100
    with running(["tfs-native"], workload.model) as processes:
        process = processes["tfs-native"]
        done, resident = 0.0, []
        while done < total:
            done += loads.grpc_load(process, workload.grpc(), Pressure(4, 16, effort.seconds))["ok"]
            resident.append((done, process.rss_mb()))
    settled = next(mb for calls, mb in resident if calls >= total / 10)
    return [
        figures_row("soak", "tfs-native", calls=done, growth_percent=(resident[-1][1] / settled - 1) * 100)
    ]
