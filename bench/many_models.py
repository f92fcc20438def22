"""Two hundred models in one config file: how long until all serve, and what polling their unchanged directories costs.

Target of issue E: all AVAILABLE in <= 8 s, one process, the idle server's CPU (poll period one second) < 1 % of a core.
Owns: the row of the suite `many_models`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bench.runner import Launch, Process, family, free_port
from bench.suites import Effort, Row
from bench.versions import CNN, publish, states

MODELS = 200
IDLE_S = 20.0
IDLE_SHORT_S = 8.0
SETTLE_S = 2.0  # the last of the start-up work
LONGEST_START_S = 8.0


def config_of(names: list[str], directory: Path) -> str:
    models = "".join(
        f'  config {{ name: "{name}" base_path: "{directory / name}" model_platform: "tensorflow" }}\n'
        for name in names
    )
    return f"model_config_list {{\n{models}}}\n"


def many_models(effort: Effort) -> list[Row]:
    """Two hundred models in one process: time until all serve, and the CPU of polling them once a second."""
    names = [f"m{number}" for number in range(MODELS // 4 if effort.quick else MODELS)]
    idle_s = IDLE_SHORT_S if effort.short or effort.quick else IDLE_S
    with tempfile.TemporaryDirectory(prefix="bench-many-") as temporary:
        directory = Path(temporary)
        for name in names:
            publish(CNN, directory / name, 1)
        config = directory / "models.conf"
        config.write_text(config_of(names, directory))
        ports = {"grpc": free_port(), "rest": free_port()}
        flags = [f"--model_config_file={config}", "--file_system_poll_wait_seconds=1"]
        flags += [f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}", "--bind_address=127.0.0.1"]
        with Process(Launch("tfs", [sys.executable, "-m", "tfs", "serve", *flags], ports)) as process:
            available = sum(states(ports["rest"], name) == {1: "AVAILABLE"} for name in names)
            time.sleep(SETTLE_S)
            before, started = process.cpu_s(), time.monotonic()
            time.sleep(idle_s)
            idle_share = (process.cpu_s() - before) / (time.monotonic() - started)
            figures = {
                "models": len(names),
                "available": available,
                "start_s": process.start_s,
                "watched_s": idle_s,
                "idle_cpu_percent": 100 * idle_share,
                "rss_mb": process.rss_mb(),
                "processes": len(family(process.pid)),
            }
    reached = available == len(names) and process.start_s <= LONGEST_START_S and idle_share < 0.01
    return [{"workload": "cnn", "target": "tfs-native", "figures": figures, "reached": reached}]
