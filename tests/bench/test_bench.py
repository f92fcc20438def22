"""The bench's own instruments: what they read out of the tools, what they call right, and whether the generator really is open-loop."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import compare, loads, runner  # noqa: E402
from bench.load import DATA, END_HEADERS, END_STREAM, HEADERS, WholeCall, frame, literal, summary  # noqa: E402
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


def test_a_trial_grows_until_it_says_something() -> None:
    counts: list[int] = []

    def run(count: int) -> dict[str, float]:
        counts.append(count)
        return {"done": count, "elapsed": count / 10_000}

    assert loads.trial_rate(run, loads.Pressure(4, 4, 1.0)) == pytest.approx(10_000)
    assert counts == [16, 64, 256, 1024]


def test_a_trial_of_a_server_that_never_answers_ends() -> None:
    assert loads.trial_rate(lambda count: {"done": 0, "elapsed": 0.01}, loads.Pressure(1, 1, 1.0)) == 0


def test_response_times_are_the_third_column(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("1795187438334278\t200\t771\n1795187438334279\t200\t1101\n")
    assert loads.response_times_us(str(tmp_path / "log")).tolist() == [771, 1101]


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


def load(floor: runner.Process, body: Path, *flags: str) -> dict[str, float]:
    """What bench.load printed for this load on an echo or a constant answer."""
    face, port = next(iter(floor.launch.ports.items()))
    command = [sys.executable, "-m", "bench.load", f"--face={face}", f"--port={port}", "--path=/a.B/C"]
    done = subprocess.run(
        [*command, f"--body={body}", *flags], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def answer_size(floor: runner.Process, body: Path) -> int:
    return body.stat().st_size if "grpc" in floor.launch.ports else 43


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"12345")
    return path


def test_open_loop_starts_calls_when_they_are_due(floor: runner.Process, body: Path) -> None:
    """Every call is sent and right, at the asked rate, whatever the answers take."""
    got = load(floor, body, f"--size={answer_size(floor, body)}", "--rate=400", "--seconds=1")
    assert (got["sent"], got["ok"], got["wrong"], got["lost"]) == (400, 400, 0, 0)
    assert got["per_s"] == pytest.approx(400, rel=0.2)
    assert 0 < got["p50_us"] <= got["p99_us"] <= got["max_us"]
    assert 0 < got["generator_cores"] < 1.1


def test_open_loop_counts_wrong_answers(floor: runner.Process, body: Path) -> None:
    got = load(floor, body, "--size=77", "--rate=100", "--seconds=0.2")
    assert (got["sent"], got["ok"], got["good"], got["wrong"]) == (20, 0, 0, 20)


def test_calls_of_several_frames_arrive_whole(floor: runner.Process, body: Path) -> None:
    """Bodies beyond a frame, and beyond the window that HTTP/2 begins with; the echo's answers are as long."""
    if "grpc" not in floor.launch.ports:
        body.write_bytes(b"[" + b"1," * 20_000 + b"1]")
    else:
        body.write_bytes(bytes(range(256)) * 600)
    got = load(floor, body, f"--size={answer_size(floor, body)}", "--rate=100", "--seconds=0.5")
    assert (got["ok"], got["wrong"], got["lost"]) == (50, 0, 0)


def test_answers_after_the_deadline_are_not_good() -> None:
    due = np.array([0.0, 1.0, 2.0])
    got = summary(due, due, np.array([0.01, 1.2, 2.01]), np.array([True, True, False]), timeout_s=0.05)
    assert (got["ok"], got["good"], got["wrong"]) == (2, 1, 1)
    assert got["per_s"] == pytest.approx(2 / 2.01)
    assert got["good_per_s"] == pytest.approx(1 / 2.01)


@pytest.mark.parametrize("size", [1, 16384, 16385, 38400])
def test_the_frames_made_once_are_those_made_piece_by_piece(size: int) -> None:
    block, content = literal("te", "trailers"), (bytes(range(256)) * 150)[:size]
    wanted = frame(HEADERS, END_HEADERS, 7, block)
    for at in range(0, size, 16384):
        wanted += frame(DATA, END_STREAM if at + 16384 >= size else 0, 7, content[at : at + 16384])
    whole = WholeCall(block, content, 16384)
    whole.of(5)
    assert bytes(whole.of(7)) == wanted


def test_no_port_is_handed_out_twice() -> None:
    first = runner.free_port()
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", first + 1))
        others = {runner.free_port() for _ in range(50)}
    assert len(others) == 50
    assert not others & {first, first + 1}
