"""TensorFlow's threads give way to those that move bytes (--compute_niceness)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from support import Server

from tfs.flags import Flags

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness belongs to the process")


def niceness(server: Server) -> dict[str, set[int]]:
    """Thread name -> how much nicer than the main thread the threads of that name are."""
    found: dict[str, set[int]] = {}
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        nicer = os.getpriority(os.PRIO_PROCESS, int(task.name)) - os.getpriority(
            os.PRIO_PROCESS, server.process.pid
        )
        found.setdefault(name, set()).add(nicer)
    return found


@pytest.mark.parametrize(
    ("flags", "nicer"),
    [([], Flags().compute_niceness), (["--compute_niceness=0"], 0)],
    ids=["as it is", "off"],
)
def test_tensorflows_threads_are_nicer(
    start_server: Callable[..., Server], models: Path, flags: list[str], nicer: int
) -> None:
    base = f"--model_base_path={models}/half_plus_two"
    server = start_server("--model_name=half_plus_two", base, *flags, transport="native").wait_ready()
    url = f"{server.url}/v1/models/half_plus_two:predict"
    assert requests.post(url, json={"instances": [2.0]}, timeout=20).json() == {"predictions": [3.0]}
    found = niceness(server)
    assert found["tfs-io"] == found["tfs-timer"] == found["tfs-runner"] == {0}
    assert found["tf_Compute"] == {nicer}
