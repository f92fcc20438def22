"""How many processors this process may use.

Owns: the affinity mask and the control group's quota, read from the system.  Must not know: what the number is for.
A container's quota (`docker run --cpus`, a Kubernetes limit) shows in neither os.cpu_count() nor the affinity mask.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


@functools.cache
def usable() -> int:
    """At least 1: the processors of the affinity mask, or a quota's worth (rounded up) where that is less.  Any thread."""
    limit = quota(_GROUPS, _MOUNT)
    allowed = len(os.sched_getaffinity(0))
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def quota(groups: Path, mount: Path) -> float | None:
    """Processors that the control group or one above it grants; None without a limit.

    cgroup v2 has `cpu.max` ("200000 100000" or "max 100000") in every directory of the path, v1 has `cpu.cfs_quota_us` (-1: none)
    and `cpu.cfs_period_us` under `cpu` or `cpu,cpuacct`: https://docs.kernel.org/admin-guide/cgroup-v2.html."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers if controllers else mount
        # Inside a container the path may be the host's, while the mount shows the container's own group as its root.
        here = root / path.lstrip("/")
        for directory in (here, *here.parents):
            limits.append(_limit(directory))
            if directory == root:
                break
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(directory: Path) -> float | None:
    try:
        if (directory / "cpu.max").exists():
            allowed, period = (directory / "cpu.max").read_text().split()
        else:
            allowed = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        return int(allowed) / int(period) if allowed not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
