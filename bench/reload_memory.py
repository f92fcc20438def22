"""Memory given back: 500 times load and unload a 50 MB model while calls go on.

    python -m bench.reload_memory [--cycles=500]

A cycle adds version v+1 and removes v by a configuration reload (poll at once, so a cycle is not a poll period). The resident set
after the first 20 cycles (allocators have settled) is compared with the one at the end. Target of issue E: <= +2 %.
Writes bench/results/reload_memory.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from bench.runner import ROOT, Process, save
from bench.swap import under_load
from bench.targets import tfs
from bench.versions import wait_states
from tfs import messages

MODEL = "plus"
SETTLE = 20
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def reload(channel: grpc.Channel, base: Path, version: int) -> None:
    request = messages.ReloadConfigRequest()
    model = request.config.model_config_list.config.add()
    model.name, model.base_path, model.model_platform = MODEL, str(base), "tensorflow"
    model.model_version_policy.specific.versions.append(version)
    channel.unary_unary(RELOAD)(request.SerializeToString(), timeout=60)


def cycles(process: Process, base: Path, count: int) -> list[float]:
    """Resident megabytes after each cycle. All versions are one directory: odd numbers only, as bench.steady expects of `+ 1`."""
    resident = []
    port, rest_port = process.launch.ports["grpc"], process.launch.ports["rest"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for number in range(count):
            old, new = 2 * number + 1, 2 * number + 3
            (base / str(new)).symlink_to(base.parent / "heavy")
            reload(channel, base, new)
            wait_states(rest_port, MODEL, lambda s, v=old: s.get(v) == "END", f"version {old} to end")
            (base / str(old)).unlink()
            resident.append(process.rss_mb())
    return resident


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory over many reloads.")
    parser.add_argument("--cycles", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50, help="calls per second")
    parser.add_argument("--transport", choices=["native", "grpcio"], default=None)
    arguments = parser.parse_args()
    transport = arguments.transport or ("grpcio" if tfs.native_missing() else "native")
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as temporary:
        base = Path(temporary) / MODEL
        base.mkdir()
        heavy = Path(temporary) / "heavy"
        subprocess.run([sys.executable, "-m", "bench.heavy_model", str(heavy)], cwd=ROOT, check=True)
        (base / "1").symlink_to(heavy)
        launch = tfs.command(MODEL, base, transport, "--file_system_poll_wait_seconds=1")
        resident: list[float] = []
        started = time.monotonic()
        with Process(launch) as process:
            port = process.launch.ports["grpc"]
            calls = under_load(
                port,
                "grpc",
                arguments.rate,
                lambda: resident.extend(cycles(process, base, arguments.cycles)),
            )
    row = judge(resident, calls, time.monotonic() - started)
    print(
        f"{len(resident)} cycles in {row['seconds']:.0f} s: {row['settled_mb']:.0f} MB, then {row['end_mb']:.0f} MB "
        f"({row['growth_percent']:+.2f} %); {calls['sent']} calls, {calls['failed']} failed, {calls['wrong']} wrong: "
        f"{'reached' if row['reached'] else 'MISSED'}"
    )
    print(save("reload_memory", [row], transport=transport))
    return 0 if row["reached"] else 1


def judge(resident: list[float], calls: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Medians of ten cycles at each end, because a cycle may be caught with two versions in memory."""
    settled = statistics.median(resident[SETTLE : SETTLE + 10] or resident)
    end = statistics.median(resident[-10:])
    growth = 100 * (end / settled - 1)
    return {
        "name": "reload_memory",
        "cycles": len(resident),
        "seconds": seconds,
        "settled_mb": settled,
        "end_mb": end,
        "growth_percent": growth,
        "peak_mb": max(resident),
        "resident_mb": resident,
        "calls": calls,
        "reached": growth <= 2 and not calls["failed"] and not calls["wrong"],
    }


if __name__ == "__main__":
    sys.exit(main())
