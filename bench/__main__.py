"""python -m bench: measure, compare, report.  `python -m bench --help` lists the names.

Owns: the command line and the order in which `all` runs.  Must not know: what a suite measures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import loads
from bench.compare import compare
from bench.registry import IN_QUICK, SUITES, effort_of
from bench.runner import RESULTS, save


def measure(names: Sequence[str], quick: bool, one_of_many: bool) -> int:
    """Runs the suites one after the other and writes a result file for each; 1 when one of them failed."""
    missing = loads.tools_missing()
    if missing:
        print(
            f"bench: {', '.join(missing)} not found; make bench installs nghttp2-client and wrk where apt can",
            file=sys.stderr,
        )
        return 1
    failed = []
    for name in names:
        effort = effort_of(name, quick=quick, one_of_many=one_of_many)
        started = time.monotonic()
        try:
            rows = SUITES[name](effort)
        except Exception as error:  # one suite that cannot run must not cost the others their results
            print(f"bench: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(name)
            continue
        seconds = time.monotonic() - started
        path = save(name, rows, **asdict(effort), took_s=round(seconds, 1))
        print(
            f"{name}: {seconds:.0f} s, {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
        )
        for row in rows:
            print("  " + line(row))
    return 1 if failed else 0


def line(row: dict[str, Any]) -> str:
    """A row on one line."""
    if "missing" in row:
        return f"{row['target']:20} missing: {row['missing']}"
    if "figures" in row:
        return f"{row['workload']:14} {row['target']:20} {row.get('face', ''):4} {row['figures']}"
    parts = [
        f"{row.get(key, ''):{width}}"
        for key, width in (("workload", 14), ("target", 20), ("face", 4), ("encoding", 7), ("generator", 0))
    ]
    if "connections" in row:
        parts.append(f"{row['connections']:3} x {row['streams']:<3}")
    median = row["median"]
    wanted = (
        "cpu_us",
        "per_s",
        "mean_us",
        "p50_us",
        "p99_us",
        "p999_us",
        "start_s",
        "rss_mb",
        "wrong",
        "lost",
    )
    return " ".join(parts + [f"{key} {median[key]:.5g}" for key in wanted if key in median])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure this server and its rivals."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer rows: two minutes in all")
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    commands.add_parser("all", help="every suite, then the report")
    commands.add_parser("report", help="write bench/REPORT.md and its pictures from bench/results")
    both = commands.add_parser("compare", help="ratios of two result files, with confidence intervals")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    for name, suite in SUITES.items():
        commands.add_parser(name, help=(suite.__doc__ or "").splitlines()[0])
    arguments = parser.parse_args()

    if arguments.command == "compare":
        try:
            print("\n".join(compare(arguments.before, arguments.after)))
        except (OSError, ValueError, KeyError) as error:
            print(f"bench compare: {error}", file=sys.stderr)
            return 1
        return 0
    status = 0
    if arguments.command != "report":
        every = IN_QUICK if arguments.quick else list(SUITES)
        one_of_many = arguments.command == "all"
        status = measure(every if one_of_many else [arguments.command], arguments.quick, one_of_many)
    if arguments.command in ("all", "report"):
        from bench.report import write

        print(f"report: {write(RESULTS)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
