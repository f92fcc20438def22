"""The suites at their shortest: that each leaves the rows which the figures are read from, and that the rows are right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import figures, loads, many_models, registry, reload_memory, runner, swap, workloads  # noqa: E402
from bench.loads import Pressure  # noqa: E402
from bench.suites import Effort, case, open_loop, running, warm  # noqa: E402
from bench.versions import PLUS  # noqa: E402

BRIEFLY = Effort(1, 0.2, quick=True)
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (nghttp2-client)")
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")


def read(suite: str, rows: list[dict[str, object]]) -> list[str]:
    """The verdicts of the suite's figures; raises where a row is missing."""
    return [figure.read(rows)[0] for figure in figures.FIGURES if figure.suite == suite]


@pytest.mark.parametrize("name", ["codec", "batcher"])
def test_a_part_alone_prints_the_figures_that_are_asked(name: str) -> None:
    rows = registry.SUITES[name](BRIEFLY)
    assert all(read(name, rows))


def test_swaps_under_load_lose_nothing() -> None:
    rows = swap.rows_of("tfs-native", swaps=2, quiet_s=0.5)
    assert [row["face"] for row in rows] == ["grpc", "rest"]
    for row in rows:
        got = row["figures"]
        assert (got["swaps"], got["failed"], got["wrong"]) == (2, 0, 0), row
        assert got["sent"] > 100
    assert "0 of" in read("swap", rows)[0]


def test_reloads_are_counted_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_memory, "heavy", lambda: PLUS / "1")
    monkeypatch.setattr(reload_memory, "CYCLES_QUICK", 32)
    (row,) = reload_memory.reload_memory(BRIEFLY)
    got = row["figures"]
    assert (got["cycles"], got["failed"], got["wrong"]) == (32, 0, 0), row
    assert len(row["resident_mb"]) == 32
    assert "after 32 cycles" in read("reload_memory", [row])[0]


def test_many_models_all_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_models, "MODELS", 12)
    monkeypatch.setattr(many_models, "SETTLE_S", 0.1)
    monkeypatch.setattr(many_models, "IDLE_SHORT_S", 0.5)
    (row,) = many_models.many_models(BRIEFLY)
    assert (row["figures"]["models"], row["figures"]["available"], row["figures"]["processes"]) == (3, 3, 1)
    assert "3 of 3" in read("many_models", [row])[0]


@needs_h2load
def test_a_round_of_h2load_counts_answers_and_remembers_their_rate() -> None:
    workload = workloads.recorded("half_plus_two")
    with running(["tfs-native"], workload.model) as processes:
        process = processes["tfs-native"]
        one = case("tfs-native", "grpc", workload, Pressure(2, 4, 0.2))
        warm(process, one)
        got = loads.grpc_load(process, one.call, one.pressure, percentiles=True)
        assert got["ok"] >= 8
        assert got["wrong"] == 0
        assert 0 < got["p50_us"] <= got["p99_us"]
        assert got["cpu_us"] >= 0
        assert list(process.rates.values()) == [pytest.approx(got["per_s"], rel=0.01)]
        paced = loads.grpc_load(process, one.call, Pressure(2, 100, 0.5, rate=200, timeout_ms=5000))
        assert (paced["ok"], paced["wrong"]) == (100, 0)
        assert paced["per_s"] == pytest.approx(200, rel=0.3)
        refused = loads.Call(one.call.path, b"", lambda answer: True)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            loads.grpc_load(process, refused, one.pressure)


def test_an_open_loop_beside_bad_neighbours_counts_only_its_own_calls() -> None:
    workload = workloads.recorded("half_plus_two")
    with running(["tfs-native"], workload.model) as processes:
        one = case("tfs-native", "grpc", workload, Pressure(2, 1, 0.5))
        bad = workloads.predict_request("nobody", workload.inputs, False)
        got = open_loop(processes["tfs-native"], one, 100, beside=bad, beside_calls=2)
        assert (got["sent"], got["ok"], got["wrong"], got["lost"]) == (50, 50, 0, 0)


@needs_wrk
def test_a_round_of_wrk_counts_answers() -> None:
    workload = workloads.recorded("half_plus_two")
    with running(["tfs-native"], workload.model) as processes:
        one = case("tfs-native", "rest", workload, Pressure(2, 1, 0.2))
        got = loads.rest_load(processes["tfs-native"], one.call, one.pressure)
        assert got["ok"] > 10
        assert got["wrong"] == 0
        assert 0 < got["p50_us"] <= got["p99_us"]


def test_targets_that_started_are_stopped_when_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    class Started:
        def __init__(self, launch: runner.Launch) -> None:
            if launch.name == "uvicorn-constant":
                raise RuntimeError("no port")
            self.name = launch.name

        def __enter__(self) -> Started:
            return self

        def __exit__(self, *_: object) -> None:
            stopped.append(self.name)

    monkeypatch.setattr("bench.suites.Process", Started)
    with (
        pytest.raises(RuntimeError, match="no port"),
        running(["grpcio-echo", "uvicorn-constant"], "half_plus_two"),
    ):
        pass
    assert stopped == ["grpcio-echo"]
