"""The bench's own instruments: what they read out of the tools, what they call right, and whether the generator really is open-loop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import compare, loads, runner  # noqa: E402
from bench.targets import all_targets  # noqa: E402

H2LOAD = """
finished in 514.21ms, 38894.18 req/s, 2.27MB/s
requests: 20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 20000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.17MB (1226112) total, 273.55KB (280116) headers (space savings 90.40%), 97.66KB (100000) data
                     min         max         mean         sd        +/- sd
time for request:       35us      5.02ms      1.62ms       307us    84.19%
time for connect:       79us       252us       146us        59us    75.00%
"""


def test_h2load_output() -> None:
    got = loads.h2load_output(H2LOAD)
    assert got == {
        "total": 20000,
        "done": 20000,
        "data": 100000,
        "mean": pytest.approx(1.62e-3),
        "elapsed": pytest.approx(0.51421),
    }


def test_h2load_output_of_a_failure_is_refused() -> None:
    with pytest.raises(ValueError, match="something else"):
        loads.h2load_output("Could not resolve host")


def test_ratio_tells_a_change_from_noise() -> None:
    rng = random.Random(1)
    before, same, slower = ([rng.gauss(mean, 1) for _ in range(9)] for mean in (100, 100, 120))
    _, low, high = compare.ratio(before, same)
    assert low <= 1 <= high
    middle, low, _ = compare.ratio(before, slower)
    assert low > 1
    assert middle == pytest.approx(1.2, abs=0.03)


@pytest.fixture(scope="module", params=["grpcio-echo", "uvicorn-constant"])
def floor(request: pytest.FixtureRequest) -> Iterator[runner.Process]:
    with runner.Process(all_targets()[request.param].launch("", Path())) as process:
        yield process


def test_open_loop_starts_calls_when_they_are_due(floor: runner.Process, tmp_path: Path) -> None:
    """Every call is sent and right, at the asked rate, whatever the answers take."""
    (face, port), body = next(iter(floor.launch.ports.items())), tmp_path / "body"
    body.write_bytes(b"12345")
    size = 5 if face == "grpc" else 43
    command = [
        sys.executable,
        "-m",
        "bench.load",
        f"--face={face}",
        f"--port={port}",
        "--path=/a.B/C",
        f"--body={body}",
    ]
    command += [f"--size={size}", "--rate=400", "--seconds=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    got = json.loads(done.stdout)
    assert (got["sent"], got["ok"], got["wrong"], got["lost"]) == (400, 400, 0, 0)
    assert got["per_s"] == pytest.approx(400, rel=0.2)
    assert 0 < got["p50_us"] <= got["p99_us"] <= got["max_us"]


def test_open_loop_counts_wrong_answers(floor: runner.Process, tmp_path: Path) -> None:
    (face, port), body = next(iter(floor.launch.ports.items())), tmp_path / "body"
    body.write_bytes(b"12345")
    command = [
        sys.executable,
        "-m",
        "bench.load",
        f"--face={face}",
        f"--port={port}",
        "--path=/a.B/C",
        f"--body={body}",
    ]
    command += ["--size=77", "--rate=100", "--seconds=0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    got = json.loads(done.stdout)
    assert (got["sent"], got["ok"], got["wrong"]) == (20, 0, 20)
