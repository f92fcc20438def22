"""Hot swap under steady load: 20 times add version v+1, wait until it serves, remove v. No call may fail or be wrong.

    python -m bench.swap [--swaps=20] [--rate=300] [--quiet=20]

For each of gRPC native, gRPC over grpcio, and REST: the same load first without swaps (p99 to compare with), then during them.
Target of issue E: 0 failed, 0 wrong, p99 during swaps <= 2 x the quiet one or <= 5 ms more. Writes bench/results/swap.json.
Owns: the sequence. Must not know: how a load is made (bench.steady), how a server is started (bench.targets).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.runner import ROOT, Process, save
from bench.steady import MODEL
from bench.targets import tfs
from bench.versions import PLUS, publish, retire, wait_states

FACES = {"native": "grpc", "grpcio": "grpc", "rest": "rest"}


def source_of(version: int) -> Path:
    """Versions answer by their parity (bench.steady)."""
    return PLUS / ("1" if version % 2 else "2")


def under_load(port: int, face: str, rate: float, work: Callable[[], None]) -> dict[str, Any]:
    """The load's summary for the time that `work` takes."""
    command = [sys.executable, "-m", "bench.steady", f"--face={face}", f"--port={port}", f"--rate={rate}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as load:
        work()
        printed, _ = load.communicate()
    return dict(json.loads(printed))


def swap(base: Path, rest_port: int, first: int, swaps: int) -> None:
    for version in range(first, first + swaps):
        new = version + 1
        publish(source_of(new), base, new)
        wait_states(rest_port, MODEL, lambda s, v=new: s.get(v) == "AVAILABLE", f"version {new} to serve")
        retire(base, version)
        wait_states(rest_port, MODEL, lambda s, v=version: s.get(v) == "END", f"version {version} to end")


def measure(transport: str, face: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as directory:
        base = Path(directory) / MODEL
        publish(source_of(1), base, 1)
        launch = tfs.command(MODEL, base, transport, "--file_system_poll_wait_seconds=1")
        with Process(launch) as process:
            port, rest_port = process.launch.ports[face], process.launch.ports["rest"]
            quiet = under_load(port, face, arguments.rate, lambda: time.sleep(arguments.quiet))
            swapping = under_load(
                port, face, arguments.rate, lambda: swap(base, rest_port, 1, arguments.swaps)
            )
    p99, before = swapping["p99_us"], quiet["p99_us"]
    good = not (quiet["failed"] or quiet["wrong"] or swapping["failed"] or swapping["wrong"])
    return {
        "face": face,
        "transport": transport,
        "swaps": arguments.swaps,
        "quiet": quiet,
        "swapping": swapping,
        "reached": good and (p99 <= 2 * before or p99 <= before + 5000),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Version swaps under steady load.")
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=300, help="calls per second")
    parser.add_argument("--quiet", type=float, default=20, help="seconds of load without swaps")
    parser.add_argument("--only", choices=list(FACES), help="one face instead of all")
    arguments = parser.parse_args()
    rows = []
    for name in [arguments.only] if arguments.only else FACES:
        transport = "grpcio" if name == "grpcio" or tfs.native_missing() else "native"
        if name == "native" and transport != "native":
            print(f"native: left out, {tfs.native_missing()}")
            continue
        row = measure(transport, FACES[name], arguments)
        rows.append({"name": name, **row})
        print(
            f"{name}: {row['swapping']['sent']} calls, {row['swapping']['failed']} failed, {row['swapping']['wrong']} wrong; "
            f"p99 {row['quiet']['p99_us']:.0f} us quiet, {row['swapping']['p99_us']:.0f} us during {arguments.swaps} swaps: "
            f"{'reached' if row['reached'] else 'MISSED'} {row['swapping']['errors'] or ''}"
        )
    print(save("swap", rows, rate=arguments.rate))
    return 0 if all(row["reached"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
