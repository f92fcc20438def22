"""Two result files, row by row: the ratio of every measure with a confidence interval, for a change and what was before it.

The interval is a percentile bootstrap of the ratio of medians: 4,000 resamples of both sides.  A ratio whose interval holds 1 is noise
as far as these samples can tell, and is printed without a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESAMPLES = 4000
KEY = ("model", "workload", "target", "face", "encoding", "connections", "streams", "rate", "generator")
# measure -> whether less of it is better
MEASURES = {
    "cpu_us": True,
    "per_s": False,
    "mean_us": True,
    "p50_us": True,
    "p99_us": True,
    "start_s": True,
    "rss_mb": True,
}
Row = Mapping[str, Any]


def ratio(before: Sequence[float], after: Sequence[float], seed: int = 5) -> tuple[float, float, float]:
    """(after / before of the medians, lower and upper end of its 95 % interval)."""
    rng = np.random.default_rng(seed)
    first, second = np.asarray(before), np.asarray(after)
    drawn = np.median(rng.choice(second, (RESAMPLES, second.size)), axis=1) / np.median(
        rng.choice(first, (RESAMPLES, first.size)), axis=1
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.median(second) / np.median(first)), float(low), float(high)


def rows_by_key(path: Path) -> dict[tuple[Any, ...], Row]:
    rows = json.loads(path.read_text())["rows"]
    return {tuple(row.get(name) for name in KEY): row for row in rows if "samples" in row}


def compare(before: Path, after: Path) -> list[str]:
    """The table, line by line.  Raises ValueError when the files have no row in common."""
    first, second = rows_by_key(before), rows_by_key(after)
    common = [key for key in first if key in second]
    if not common:
        raise ValueError(f"{before} and {after} have no row in common")
    lines = [f"{'row':52} {'measure':8} {'before':>10} {'after':>10} {'ratio':>7}  95 % interval"]
    for key in common:
        label = " ".join(str(part) for part in key if part is not None)
        for measure, less_is_better in MEASURES.items():
            old, new = (values(row, measure) for row in (first[key], second[key]))
            if not old or not new or not np.median(old):
                continue
            middle, low, high = ratio(old, new)
            verdict = "" if low <= 1 <= high else "  better" if (middle < 1) == less_is_better else "  WORSE"
            lines.append(
                f"{label:52} {measure:8} {np.median(old):10.2f} {np.median(new):10.2f} {middle:7.3f}  {low:.3f} … {high:.3f}{verdict}"
            )
    return lines


def values(row: Row, measure: str) -> list[float]:
    return [sample[measure] for sample in row["samples"] if measure in sample]
