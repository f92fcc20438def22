"""House rule: every metric is in docs/metrics.md, and what is written there exists."""

from __future__ import annotations

import re
from pathlib import Path

from tfs import metrics

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def families() -> set[str]:
    single = [one for one in vars(metrics).values() if isinstance(one, metrics.Family)]
    listed = [*metrics.UNREAD, *(one for one, _ in metrics.BATCH_SERIES)]
    return {metrics.mangled(one.name) for one in [*single, *listed]}


def test_every_metric_is_documented() -> None:
    missing = {name for name in families() if f"`{name}`" not in PAGE}
    assert not missing, f"not in docs/metrics.md: {missing}"


def test_every_documented_metric_exists() -> None:
    written = set(re.findall(r"`(:tensorflow:[a-z0-9_:]+|tfs_[a-z_]+)`", PAGE))
    assert written <= families()
