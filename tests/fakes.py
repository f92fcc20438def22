"""Stand-ins for the blocking parts of the life cycle, which count themselves and do nothing until told.

Owns: FakeServable, FakeLoader, ManualClock, PuppetPool. Knows the interfaces of tfs.lifecycle, no file system, no TensorFlow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tfs.errors import NotFound, TfsError
from tfs.lifecycle.loader import Attempt
from tfs.lifecycle.states import ServableId


class ManualClock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeServable:
    """Counts the live ones; remembers whether it was closed."""

    live = 0

    def __init__(self, name: str, version: int, path: str = "") -> None:
        self.name = name
        self.version = version
        self.path = path
        self.closed = False
        self.unused = True
        type(self).live += 1

    def wait_unused(self, timeout_s: float) -> bool:
        return self.unused

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True
        type(self).live -= 1

    def __repr__(self) -> str:
        return f"FakeServable({self.name}:{self.version})"


class FakeLoader:
    """Takes the place of tfs.lifecycle.loader.Loader: loads what is not in `broken`, and remembers every attempt."""

    def __init__(self) -> None:
        self.broken: set[tuple[str, int]] = set()
        self.attempts: list[tuple[str, int]] = []
        self.unloaded: list[tuple[str, int]] = []

    def attempt(
        self, servable_id: ServableId, path: str, on_loading: Callable[[], None]
    ) -> Attempt[FakeServable]:
        key = (servable_id.name, servable_id.version)
        self.attempts.append(key)
        on_loading()
        if key in self.broken:
            error: TfsError = NotFound(f"{path} is broken")
            return Attempt(None, error, 0.0, 0.0)
        return Attempt(FakeServable(*key, path), None, 0.0, 0.0)

    def unload(self, servable_id: ServableId, servable: FakeServable) -> float:
        self.unloaded.append((servable_id.name, servable_id.version))
        servable.close()
        return 0.0


class PuppetPool:
    """A pool without threads: tasks wait until `run_one` or `run_all`; `inline` runs them at once."""

    def __init__(self, inline: bool = False) -> None:
        self.inline = inline
        self.limit = 0
        self.tasks: deque[Callable[[], None]] = deque()

    def submit(self, task: Callable[[], None]) -> None:
        if self.inline:
            task()
        else:
            self.tasks.append(task)

    def set_limit(self, limit: int) -> None:
        self.limit = limit

    def cancel(self) -> None:
        self.tasks.clear()

    def close(self, timeout_s: float) -> bool:
        self.run_all()
        return True

    def run_one(self, index: int = 0) -> bool:
        """Runs the task at `index` (modulo the number of tasks); False when there is none."""
        if not self.tasks:
            return False
        self.tasks.rotate(-(index % len(self.tasks)))
        task = self.tasks.popleft()
        task()
        return True

    def run_all(self) -> None:
        while self.run_one():
            pass
