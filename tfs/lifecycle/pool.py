"""Threads for work that blocks: loads and unloads.

Owns: a queue and up to `limit` threads, started when work waits and gone when none does (loads are rare, idle threads are not
worth their arenas). Knows nothing of what the tasks do; a task that raises is logged and costs nothing else.
Thread-safe. Tests put their own object with the same methods in its place and run the tasks when it suits them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("tfs.lifecycle.pool")

Task = Callable[[], None]


class Pool(Protocol):
    """Runs tasks some time, somewhere."""

    def submit(self, task: Task) -> None: ...
    def set_limit(self, limit: int) -> None: ...
    def cancel(self) -> None: ...
    def close(self, timeout_s: float) -> bool: ...


class ThreadPool:
    """Daemon threads named `<name>-<n>`; tasks start in the order of submission."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = max(limit, 1)
        self._lock = threading.Lock()
        self._tasks: deque[Task] = deque()
        self._threads: set[threading.Thread] = set()
        self._started = 0

    def set_limit(self, limit: int) -> None:
        """More threads start with the next task; surplus ones end with the task they are at."""
        with self._lock:
            self._limit = max(limit, 1)

    def submit(self, task: Task) -> None:
        with self._lock:
            self._tasks.append(task)
            if len(self._threads) >= self._limit:
                return
            self._started += 1
            thread = threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def cancel(self) -> None:
        """Drops the tasks that have not started."""
        with self._lock:
            self._tasks.clear()

    def close(self, timeout_s: float) -> bool:
        """Waits for all tasks; False when some are still waiting or running at the end. Nothing may be submitted meanwhile."""
        until = time.monotonic() + timeout_s
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:
                log.exception("a task of pool %s failed", self._name)

    def _next(self) -> Task | None:
        with self._lock:
            if self._tasks and len(self._threads) <= self._limit:
                return self._tasks.popleft()
            self._threads.discard(threading.current_thread())
            return None
