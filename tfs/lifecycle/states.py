"""Names and states of servable versions, and the table of legal moves between the states.

Owns: `ServableId`, `State` (the integers are those of ModelVersionStatus.State), `VersionStatus`, `TRANSITIONS`.
Knows no threads, clocks or I/O; who reports which state and when is the manager's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from tfs.errors import TfsError


class ServableId(NamedTuple):
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


class State(enum.IntEnum):
    """What GetModelStatus reports."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


# A version that was never seen, or that has ended, starts from START.
TRANSITIONS: Final[dict[State | None, frozenset[State]]] = {
    None: frozenset({State.START}),
    State.START: frozenset({State.LOADING, State.END}),
    State.LOADING: frozenset({State.AVAILABLE, State.END}),
    State.AVAILABLE: frozenset({State.UNLOADING}),
    State.UNLOADING: frozenset({State.END}),
    State.END: frozenset({State.START}),
}


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The last known state of a version. `error` belongs to the state (a load that was given up: END and its error);
    `attempt_error` is what the latest failed load attempt said, retries included, and does not show in GetModelStatus."""

    id: ServableId
    state: State
    error: TfsError | None = None
    attempt_error: TfsError | None = None
    serial: int = 0  # grows with every report of the process, so that old news can be told from new

    @property
    def version(self) -> int:
        return self.id.version
