"""Memory given back: 500 times load and unload a 50 MB model while calls go on.

A cycle adds version v+1 and removes v by a configuration reload (poll at once, so a cycle is not a poll period).  The resident set
after the first cycles (allocators have settled) is compared with the one at the end.  Target of issue E: <= +2 %.
Owns: the row of the suite `reload_memory`.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

from bench.runner import CACHE, ROOT, Process
from bench.suites import Effort, Row
from bench.swap import under_load
from bench.targets import tfs
from bench.versions import wait_states
from tfs import messages

MODEL = "plus"
CYCLES = 500
CYCLES_SHORT = 150
CYCLES_QUICK = 40
SETTLE = 20
RATE = 50  # calls per second
MOST_GROWTH_PERCENT = 2
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def heavy() -> Path:
    """The model of 50 MB, made on first use: that imports TensorFlow, in a process of its own."""
    script = ROOT / "bench" / "heavy_model.py"
    model = CACHE / f"heavy-{hashlib.sha256(script.read_bytes()).hexdigest()[:16]}"
    if not model.exists():
        fresh = model.with_name(f"{model.name}.{os.getpid()}")
        command = [sys.executable, "-m", "bench.heavy_model", str(fresh)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
        fresh.rename(model)
    return model


def reload(channel: grpc.Channel, base: Path, version: int) -> None:
    request = messages.ReloadConfigRequest()
    model = request.config.model_config_list.config.add()
    model.name, model.base_path, model.model_platform = MODEL, str(base), "tensorflow"
    model.model_version_policy.specific.versions.append(version)
    channel.unary_unary(RELOAD)(request.SerializeToString(), timeout=60)


def cycles(process: Process, base: Path, model: Path, count: int) -> list[float]:
    """Resident megabytes after each cycle. All versions are one directory: odd numbers only, as bench.steady expects of `+ 1`."""
    resident = []
    port, rest_port = process.launch.ports["grpc"], process.launch.ports["rest"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for number in range(count):
            old, new = 2 * number + 1, 2 * number + 3
            (base / str(new)).symlink_to(model)
            reload(channel, base, new)
            wait_states(
                rest_port, MODEL, lambda s, v=old: s.get(v) == "END", f"version {old} to end", pause_s=0.02
            )
            (base / str(old)).unlink()
            resident.append(process.rss_mb())
    return resident


def reload_memory(effort: Effort) -> list[Row]:
    """Resident memory over many loads and unloads of a 50 MB model under load."""
    count = CYCLES_QUICK if effort.quick else CYCLES_SHORT if effort.short else CYCLES
    transport = "grpcio" if tfs.native_missing() else "native"
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as temporary:
        base = Path(temporary) / MODEL
        base.mkdir()
        model = heavy()
        (base / "1").symlink_to(model)
        resident: list[float] = []
        with Process(tfs.command(MODEL, base, transport, "--file_system_poll_wait_seconds=1")) as process:
            calls = under_load(
                process, ["grpc"], RATE, lambda: resident.extend(cycles(process, base, model, count))
            )["grpc"]
    return [
        {"workload": "plus, 50 MB", "target": f"tfs-{transport}", "face": "grpc", **judge(resident, calls)}
    ]


def judge(resident: list[float], calls: dict[str, Any]) -> Row:
    """Medians of ten cycles at each end, because a cycle may be caught with two versions in memory."""
    settled = statistics.median(resident[SETTLE : SETTLE + 10])
    end = statistics.median(resident[-10:])
    growth = 100 * (end / settled - 1)
    return {
        "figures": {
            "cycles": len(resident), "settled_mb": settled, "end_mb": end, "peak_mb": max(resident), "growth_percent": growth,
            "sent": calls["sent"], "failed": calls["failed"], "wrong": calls["wrong"],
        },
        "resident_mb": resident,
        "errors": calls["errors"],
        "reached": growth <= MOST_GROWTH_PERCENT and not calls["failed"] and not calls["wrong"],
    }  # fmt: skip
