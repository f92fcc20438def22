"""The memory of states: the last state and error of every version ever seen, for GetModelStatus and for who must wait.

Owns: the records, their lock, the wait. Versions are never forgotten in the life of the process, as the reference does it.
Knows nothing of why a state changes. Every method may be called from any thread; `wait_for` blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from tfs.errors import Internal, TfsError
from tfs.lifecycle.states import TRANSITIONS, ServableId, State, VersionStatus


class StateMonitor:
    """Thread-safe map of version -> VersionStatus with a condition that fires on every change."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._models: dict[str, dict[int, VersionStatus]] = {}
        self._serial = 0

    def report(self, servable: ServableId, state: State, error: TfsError | None = None) -> None:
        """Records `state`; raises Internal for a move that `TRANSITIONS` does not allow (a bug of the caller)."""
        with self._changed:
            self._serial += 1
            versions = self._models.setdefault(servable.name, {})
            known = versions.get(servable.version)
            before = known.state if known else None
            if state not in TRANSITIONS[before]:
                came = before.name if before else "nothing"
                raise Internal(f"servable {servable} cannot go from {came} to {state.name}")
            attempt = known.attempt_error if known and state is not State.START else None
            versions[servable.version] = VersionStatus(servable, state, error, attempt, self._serial)
            self._changed.notify_all()

    def attempt_failed(self, servable: ServableId, error: TfsError) -> None:
        """Remembers that one load attempt of a version failed; its state stays."""
        with self._changed:
            versions = self._models[servable.name]
            versions[servable.version] = replace(versions[servable.version], attempt_error=error)
            self._changed.notify_all()

    def wake(self) -> None:
        """Makes every `wait_for` look at its predicate again."""
        with self._changed:
            self._changed.notify_all()

    @property
    def serial(self) -> int:
        """The serial of the latest report; later ones have greater serials."""
        return self._serial

    def status(self, servable: ServableId) -> VersionStatus | None:
        with self._changed:
            return self._models.get(servable.name, {}).get(servable.version)

    def state(self, servable: ServableId) -> State | None:
        status = self.status(servable)
        return status.state if status else None

    def versions(self, name: str) -> list[VersionStatus]:
        """Every version of `name` ever seen, highest number first."""
        with self._changed:
            known = self._models.get(name, {})
            return [known[version] for version in sorted(known, reverse=True)]

    def models(self) -> list[str]:
        """Names with at least one version ever seen, sorted."""
        with self._changed:
            return sorted(self._models)

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Blocks until `predicate()` (evaluated under the monitor's lock, after each change) holds; False when time is up."""
        with self._changed:
            return self._changed.wait_for(predicate, timeout_s)
