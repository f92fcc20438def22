"""A container's quota is found wherever the kernel says it, and nothing odd there is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfs import cores

Files = dict[str, str]


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "150000 100000\n"}, 0.5),
        (
            "0::/kubepods/pod1\n",
            {"cpu.max": "300000 100000\n"},
            3.0,
        ),  # the host's path, the container's mount
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        (
            "4:memory:/m\n1:cpu,cpuacct:/docker/1\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000\n"}, None),
    ],
)
def test_the_quota(tmp_path: Path, groups: str, files: Files, expected: float | None) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cores.quota(tmp_path / "groups", tmp_path / "mount") == expected


def test_no_groups_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (0.2, 1), (1.5, 2), (3.0, 3), (9.0, 4)])
def test_the_smaller_of_quota_and_affinity(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, expected: int
) -> None:
    monkeypatch.setattr(cores, "quota", lambda groups, mount: limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert cores.usable.__wrapped__() == expected
