"""The bench's borrowed tools: what is read out of perf_analyzer, and what is said when it or a rival cannot run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import perf_analyzer  # noqa: E402
from bench.targets import all_targets, python_tensorflow  # noqa: E402
from bench.workloads import Workload  # noqa: E402

TABLE = """Concurrency,Inferences/Second,Client Send,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
16,15422.6,1,0,886,1540,1880,4044
"""
PRINTED = """Request concurrency: 16
    Avg gRPC time: 1026 usec ((un)marshal request/response 1 usec + response wait 1025 usec)
"""


def test_output_of_perf_analyzer() -> None:
    got = perf_analyzer.output(TABLE, PRINTED)
    assert got == {"mean_us": 1026.0, "per_s": 15422.6, "p50_us": 886.0, "p90_us": 1540.0, "p99_us": 4044.0}


@pytest.mark.parametrize(
    ("table", "printed"),
    [("", PRINTED), (TABLE, ""), (TABLE.replace("p99", "p98"), PRINTED)],
)
def test_output_of_a_failure_is_refused(table: str, printed: str) -> None:
    with pytest.raises(ValueError, match="something else"):
        perf_analyzer.output(table, printed)


def test_input_data_has_every_tensor_with_its_shape() -> None:
    inputs = {"x": np.array([[1, 2], [3, 4]], np.float32), "y": np.array([5], np.int64)}
    assert json.loads(perf_analyzer.input_data(Workload("w", "m", inputs, {}))) == {
        "data": [
            {"x": {"content": [1.0, 2.0, 3.0, 4.0], "shape": [2, 2]}, "y": {"content": [5], "shape": [1]}}
        ]
    }


def program(directory: Path, script: str) -> Path:
    path = directory / "perf_analyzer"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_why_perf_analyzer_is_missing(tmp_path: Path) -> None:
    assert "make bench" in str(perf_analyzer.missing(tmp_path / "perf_analyzer"))
    broken = program(tmp_path, 'echo "$0: error while loading shared libraries: libb64.so.0d" >&2; exit 127')
    assert perf_analyzer.missing(broken) == "error while loading shared libraries: libb64.so.0d"
    assert perf_analyzer.missing(program(tmp_path, "exit 3")) == "exit code 3"
    assert perf_analyzer.missing(program(tmp_path, "echo Version 2.51.0")) is None
    broken.write_bytes(b"\x7fELF of another machine")
    assert "Exec format" in str(perf_analyzer.missing(broken))


def test_a_rival_that_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_tensorflow, "LITSERVE", tmp_path)
    assert "bench/.cache/litserve" in str(all_targets()["litserve-tensorflow"].missing())


def test_every_target_has_a_face_and_a_title_of_its_own() -> None:
    targets = all_targets()
    assert all(target.faces for target in targets.values())
    assert len({target.title for target in targets.values()}) == len(targets)
