"""Which load or unload comes next for one model: pure functions over a snapshot of its versions.

Owns: `Phase`, `Snapshot`, `Action` and the two policies of `--aspired_version_policy`.
Knows no threads, clocks or I/O. A policy is stateless: the manager asks again after each action until it says None, and
each action moves one version onwards (NEW -> LOADING or READY -> UNLOADING), so asking always ends.

Promises (tests/unit/lifecycle/test_policy.py generates histories for them): only aspired versions are loaded, only un-aspired
ones are unloaded, and availability_preserving never unloads the last ready version while an aspired one may still come.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple


class Phase(enum.Enum):
    """Where the manager has a version; finer than the published State."""

    NEW = "accepted, load not started"
    LOADING = "loading, warming up, or waiting to try again"
    READY = "in the serving map"
    UNLOADING = "out of the serving map, draining"
    FAILED = "load given up"


class Snapshot(NamedTuple):
    version: int
    phase: Phase
    aspired: bool


class Verb(enum.Enum):
    LOAD = "load"
    UNLOAD = "unload"


class Action(NamedTuple):
    verb: Verb
    version: int


Policy = Callable[[Sequence[Snapshot]], Action | None]


def availability_preserving(versions: Sequence[Snapshot]) -> Action | None:
    """Loads the highest new version first and unloads an old one only when an aspired one serves (or a second old one does)."""
    leaving = _ready_to_leave(versions)
    aspired = [v for v in versions if v.aspired]
    if leaving and (not aspired or len(leaving) > 1 or any(v.phase is Phase.READY for v in aspired)):
        return Action(Verb.UNLOAD, min(leaving))
    return _load_highest(versions)


def resource_preserving(versions: Sequence[Snapshot]) -> Action | None:
    """Unloads everything un-aspired, waits until it is gone, then loads: never two generations in memory."""
    leaving = _ready_to_leave(versions)
    if leaving:
        return Action(Verb.UNLOAD, min(leaving))
    if any(not v.aspired and v.phase in (Phase.LOADING, Phase.UNLOADING) for v in versions):
        return None
    return _load_highest(versions)


def _ready_to_leave(versions: Sequence[Snapshot]) -> list[int]:
    return [v.version for v in versions if v.phase is Phase.READY and not v.aspired]


def _load_highest(versions: Sequence[Snapshot]) -> Action | None:
    fresh = [v.version for v in versions if v.phase is Phase.NEW and v.aspired]
    return Action(Verb.LOAD, max(fresh)) if fresh else None


POLICIES: Final[dict[str, Policy]] = {
    "availability_preserving": availability_preserving,
    "resource_preserving": resource_preserving,
}
