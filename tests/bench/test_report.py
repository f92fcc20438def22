"""What is made of result files: the table of figures, the report and its pictures; and that every suite has its place in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench import figures, registry, reload_memory, swap  # noqa: E402
from bench.report import NUMBERS, SECTIONS, write  # noqa: E402

MEASURED = {
    "cpu_us": 10.0, "per_s": 5000.0, "mean_us": 100.0, "p50_us": 90.0, "p90_us": 120.0, "p99_us": 200.0, "p999_us": 300.0,
    "start_s": 1.0, "rss_mb": 100.0,
}  # fmt: skip


def point(target: str, workload: str, connections: int = 4, streams: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "workload": workload, "model": workload, "target": target, "face": "grpc", "encoding": "typed",
        "connections": connections, "streams": streams, "samples": [MEASURED], "median": dict(MEASURED), **more,
    }  # fmt: skip


def lone(target: str, **medians: float) -> dict[str, Any]:
    return point(target, "mnist_large", 1, 1) | {"median": MEASURED | medians}


LIFE = {
    "sent": 1000,
    "failed": 0,
    "wrong": 0,
    "p50_us": 900.0,
    "p99_us": 4000.0,
    "max_us": 9000.0,
    "errors": {},
}


def life_cycle() -> dict[str, list[dict[str, Any]]]:
    """Rows as the life-cycle suites leave them, made by their own functions where these do not need a server."""
    return {
        "swap": [swap.row("tfs-native", "grpc", 20, LIFE, LIFE)],
        "reload_memory": [
            {"workload": "plus", "target": "tfs-native", **reload_memory.judge([100.0] * 40 + [101.0] * 10, LIFE)}
        ],
        "many_models": [{"workload": "cnn", "target": "tfs-native", "reached": True, "figures": {
            "models": 200, "available": 200, "start_s": 5.0, "idle_cpu_percent": 0.4}}],
        "soak": [{"workload": "half_plus_two", "target": "tfs-native", "figures": {"calls": 1e7, "growth_percent": 0.1}}],
    }  # fmt: skip


def results_of(directory: Path, rows: dict[str, list[dict[str, Any]]]) -> Path:
    results = directory / "results"
    results.mkdir()
    about = {
        "git": "0",
        "dirty": False,
        "when": "2026-01-01T00:00:00Z",
        "cpu": "x",
        "cores": 2,
        "kernel": "6",
    }
    about |= {"python": "3", "versions": {}, "settings": {}}
    for name, mine in rows.items():
        (results / f"{name}.json").write_text(json.dumps({"name": name, **about, "rows": mine}))
    return results


def verdict(suite: str, asked: str, rows: list[dict[str, Any]]) -> tuple[str, bool]:
    (figure,) = (one for one in figures.FIGURES if one.suite == suite and asked in one.asked)
    return figure.read(rows)


def test_every_figure_names_a_suite_that_exists() -> None:
    assert {figure.suite for figure in figures.FIGURES} <= registry.SUITES.keys()
    assert all(figure.command == f"python -m bench {figure.suite}" for figure in figures.FIGURES)


def test_every_suite_says_what_it_is_and_takes_its_effort() -> None:
    assert all(suite.__doc__ for suite in registry.SUITES.values())
    assert set(registry.IN_QUICK) <= registry.SUITES.keys() == registry.EFFORTS.keys()
    alone, among = (registry.effort_of("soak", quick=False, one_of_many=many) for many in (False, True))
    assert (alone.short, among.short) == (False, True)
    assert registry.effort_of("soak", quick=True, one_of_many=True).quick


def test_life_cycle_figures_are_read_from_the_rows_of_their_suites() -> None:
    lines = {
        line[1]: line for line in figures.table({name: {"rows": rows} for name, rows in life_cycle().items()})
    }
    found = [line for line in lines.values() if line[3] != "–"]
    assert len(found) == 4
    assert all(line[3] == "yes" for line in found), found


@pytest.mark.parametrize(
    ("changed", "reached"),
    [
        ({}, True),
        ({"failed": 1}, False),
        ({"wrong": 1}, False),
        ({"p99_us": 8000}, True),
        ({"p99_us": 9001}, False),
    ],
)
def test_a_swap_is_judged_against_its_quiet_time(changed: dict[str, float], reached: bool) -> None:
    """Twice the quiet p99, or five milliseconds more."""
    row = swap.row("tfs-native", "grpc", 20, LIFE, LIFE | changed)
    assert row["reached"] is reached
    assert verdict("swap", "20 swaps", [row])[1] is reached


@pytest.mark.parametrize(("end", "reached"), [(101.9, True), (102.1, False)])
def test_growth_over_reloads_is_from_settled_to_end(end: float, reached: bool) -> None:
    """The first twenty cycles do not count; a spike does not either."""
    resident = [50.0] * 20 + [100.0] * 20 + [250.0] + [end] * 10
    row = reload_memory.judge(resident, LIFE)
    assert row["reached"] is reached
    assert row["figures"]["cycles"] == 51
    assert row["figures"]["peak_mb"] == 250.0


@pytest.mark.parametrize(("p50", "met"), [(1150.0, True), (1250.0, False)])
def test_a_lone_client_is_compared_by_its_median_latency(p50: float, met: bool) -> None:
    """10 % of 100 us, and the timeout of 1000 us; means do not count."""
    rows = [lone("unbatched", p50_us=100, mean_us=1), lone("batched", p50_us=p50, mean_us=10_000)]
    if met:
        rows[1]["median"]["p50_us"] = 1109.0
    assert verdict("batching", "one client alone", rows)[1] is met


@pytest.mark.parametrize(("share", "met"), [(0.91, True), (0.89, False)])
def test_goodput_says_what_the_generator_took(share: float, met: bool) -> None:
    numbers = {"goodput_of_capacity": share, "generator_cores": 0.2, "generator_cores_at_capacity": 0.1}
    rows = [point("overloaded", "mnist_large"), {"workload": "w", "target": "overloaded", "figures": numbers}]
    text, reached = verdict("batching", "2 × overload", rows)
    assert reached is met
    assert "0.10 cores at capacity, 0.20 at twice" in text


def test_a_figure_without_its_rows_is_not_measured() -> None:
    assert {line[3] for line in figures.table({})} == {"–"}
    missing = [{"target": "tfs-native", "missing": "not built"}]
    assert {line[3] for line in figures.table({name: {"rows": missing} for name in registry.SUITES})} == {"–"}


def test_the_report_has_a_section_and_a_picture_for_what_was_measured(tmp_path: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = life_cycle()
    rows["batch_latency"] = [
        point(name, "mnist_large", min(level, 4), max(1, level // 4))
        for name in ("unbatched", "batched") for level in (1, 4, 16)
    ]  # fmt: skip
    rows["perf_analyzer"] = [
        point("tfs-native", "half_plus_two", 1, 16, generator="h2load"),
        {"target": "perf_analyzer", "missing": "libb64.so.0d: cannot open"},
    ]
    rows["sides"] = [point("tfs-native", "images"), point("fastapi-tensorflow", "images", face="rest")]
    del rows["sides"][1]["median"]["cpu_us"]  # never answered
    path = write(results_of(tmp_path, rows))
    text = path.read_text()
    assert (tmp_path / "pictures" / "batch_latency.png").stat().st_size > 1000
    for name in ("Version swaps", "Many models", "Memory over reloads", "Memory over many calls"):
        assert f"## {name}\n" in text
    assert "- perf_analyzer: libb64.so.0d: cannot open" in text
    assert "| h2load |" in text
    assert "| 1 × 16 |" in text
    left = text.partition("## Missing")[2]
    assert "`python -m bench swap` has no result file" not in left
    assert "`python -m bench start` has no result file" in left


def test_every_suite_with_rows_has_a_section_or_figures() -> None:
    shown = {name for name, *_ in (*SECTIONS, *NUMBERS)} | {"profile"}
    assert registry.SUITES.keys() - shown - {figure.suite for figure in figures.FIGURES} == set()


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results"):
        write(results_of(tmp_path, {}))
