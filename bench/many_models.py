"""Two hundred models in one config file: how long until all serve, and what polling their unchanged directories costs.

    python -m bench.many_models [--models=200] [--idle=20]

Target of issue E: all AVAILABLE in <= 8 s, one process, the idle server's CPU (poll period one second) < 1 % of a core.
Writes bench/results/many_models.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench.runner import Launch, Process, family, free_port, save
from bench.versions import CNN, publish, states


def config_of(names: list[str], directory: Path) -> str:
    models = "".join(
        f'  config {{ name: "{name}" base_path: "{directory / name}" model_platform: "tensorflow" }}\n'
        for name in names
    )
    return f"model_config_list {{\n{models}}}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Many models in one process.")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--idle", type=float, default=20, help="seconds to watch the idle server")
    arguments = parser.parse_args()
    names = [f"m{number}" for number in range(arguments.models)]
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
            time.sleep(2)  # the last of the start-up work
            before, started = process.cpu_s(), time.monotonic()
            time.sleep(arguments.idle)
            idle_share = (process.cpu_s() - before) / (time.monotonic() - started)
            row = {
                "name": "many_models",
                "models": arguments.models,
                "available": available,
                "start_s": process.start_s,
                "idle_cpu_percent": 100 * idle_share,
                "rss_mb": process.rss_mb(),
                "processes": len(family(process.pid)),
            }
    reached = available == arguments.models and row["start_s"] <= 8 and idle_share < 0.01
    print(
        f"{available} of {arguments.models} models serve {row['start_s']:.2f} s after the start; idle {100 * idle_share:.2f} % "
        f"of a core; {row['rss_mb']:.0f} MB: {'reached' if reached else 'MISSED'}"
    )
    print(save("many_models", [{**row, "reached": reached}]))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
