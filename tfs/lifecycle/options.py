"""The settings of the control plane, frozen. Built once from the validated flags by the composition root.

Owns: names, units and defaults. Decides nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field


def _four_per_cpu() -> int:
    return 4 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class LifecycleOptions:
    """Defaults are those of the flags of the same names; the fields below the blank line have no flag in the reference."""

    file_system_poll_wait_seconds: int = 1  # 0: once at start and at each reload; < 0: never
    model_config_file_poll_wait_seconds: int = 0  # > 0: apply the file again at that period
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000  # <= 0: try again at once
    num_load_threads: int = 0  # after start-up; 0: as many as at start-up
    num_unload_threads: int = 0  # 0: four per CPU
    aspired_version_policy: str = "availability_preserving"
    allow_version_labels_for_unavailable_models: bool = False
    allow_partial_startup: bool = False
    platforms: frozenset[str] = frozenset({"tensorflow"})

    initial_load_threads: int = field(default_factory=_four_per_cpu)
    # How long an unload waits for the calls that hold the version before its session is closed under them (CANCELLED).
    # Generous: a draining version costs memory, a cut call costs somebody's answer.
    unload_grace_s: float = 300.0
    # A reload answers at the latest after this long, whatever its models do (the reference waits for ever).
    reload_wait_limit_s: float = 600.0
    # ... and after this long when a new model has no version directory at all.
    no_versions_wait_s: float = 10.0
