"""Starts a target as its own process, watches what it costs, and keeps what was measured.

Owns: process life, the kernel's accounting (CPU time of all threads and children, resident memory), alternating rounds, medians,
and the result file with everything needed to judge it later.  Must not know: protocols, workloads, figures.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
CACHE = ROOT / "bench" / ".cache"  # what a bench builds or installs for itself
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 120
VERSIONS_OF = (
    "tensorflow-cpu",
    "tensorflow",
    "grpcio",
    "protobuf",
    "numpy",
    "uvloop",
    "uvicorn",
    "httptools",
    "fastapi",
)


@dataclass(frozen=True)
class Launch:
    """How a target is started: `ports` by face ("grpc", "rest") are open when it is ready."""

    name: str
    command: Sequence[str]
    ports: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict)


class Process:
    """A running target.  Use as a context manager; it ends by SIGTERM, or SIGKILL after ten seconds."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        # What a load generator has found it to answer per second, by what was asked: a round need not try that again.
        self.rates: dict[Hashable, float] = {}
        self.log = tempfile.NamedTemporaryFile(prefix=f"bench-{launch.name}-", suffix=".log")  # noqa: SIM115
        started = time.monotonic()
        self._process = subprocess.Popen(
            list(launch.command),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,  # a group of its own: see stop()
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
            | dict(launch.environment),
        )
        self.pid = self._process.pid
        try:
            self._wait_ready(started + START_TIMEOUT_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - started

    def _wait_ready(self, deadline: float) -> None:
        for port in self.launch.ports.values():
            while not accepts(port):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = Path(self.log.name).read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{self.launch.name} did not open port {port}:\n{tail}")
                time.sleep(0.005)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with suppress(ProcessLookupError):  # workers that outlive their server (LitServe's do)
            os.killpg(self.pid, signal.SIGKILL)
        self.log.close()

    def cpu_s(self) -> float:
        """User and system time so far of all threads and all living children."""
        return sum(_cpu_s(pid) for pid in family(self.pid))

    def rss_mb(self) -> float:
        return sum(_status_kb(pid, "VmRSS") for pid in family(self.pid)) / 1024

    def peak_rss_mb(self) -> float:
        return sum(_status_kb(pid, "VmHWM") for pid in family(self.pid)) / 1024


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def _status_kb(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


# Below those that the system gives to clients, which a server that starts slowly could lose to one of them; no port comes twice.
_ports = iter(range(20000 + os.getpid() % 4096, 32768))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, another one each time.  Raises RuntimeError when there are no more."""
    for port in _ports:
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port below 32768")


def accepts(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alternate(
    rounds: int, runs: Mapping[str, Callable[[], dict[str, float]]]
) -> dict[str, list[dict[str, float]]]:
    """Runs every entry once per round, in turn, so that a slow minute of the machine hits all of them; name -> its samples."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        order = list(runs) if number % 2 == 0 else list(runs)[::-1]
        for name in order:
            samples[name].append(runs[name]())
    return samples


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every field that all samples have."""
    keys = [key for key in samples[0] if all(key in sample for sample in samples)]
    return {key: statistics.median(sample[key] for sample in samples) for key in keys}


# --- the result file ------------------------------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """The machine and the versions, as they stand now."""
    versions = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "git": git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(
            git(
                "status",
                "--porcelain",
                "--",
                "tfs",
                "setup.py",
                "bench",
                ":!bench/results",
                ":!bench/REPORT.md",
            )
        ),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("TF_") and not name.startswith("TF_CLI_")  # which is Terraform's
        },
    }


def save(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Writes bench/results/NAME.json: the environment, the rows (each with its samples), and what else the bench has to say.
    Paths are those from the repository's root: where it lies is nobody's business."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps({"name": name, **environment(), **more, "rows": list(rows)}, indent=1) + "\n"
    path.write_text(text.replace(f"{ROOT}/", ""))
    return path
