"""Blocking looks at many things, one after the other, that go on without those that hang.

Owns: the threads that look, and which things have not answered yet.  Must not know: what is looked at.
A system call on a dead network mount never returns and cannot be interrupted; the thread inside it is left there, and another
one looks at the rest.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)
Seen = TypeVar("Seen")


class Patient(Generic[Thing, Seen]):
    """`look` must not raise. One thread at a time may iterate over `each`. `late` gets what a look saw whose time was over; it is
    called by the thread that looked, before that thing is looked at again, so that slow is not the same as dead."""

    def __init__(
        self, look: Callable[[Thing], Seen], patience_s: float, late: Callable[[Thing, Seen], None]
    ) -> None:
        self._look, self._patience_s, self._late = look, patience_s, late
        self._lock = threading.Lock()
        self._hanging: set[Thing] = set()

    def each(self, things: Sequence[Thing]) -> Iterator[tuple[Thing, Seen | None]]:
        """(thing, what `look` saw) in order; None once for one that has just exceeded its time. One that hangs is left out until
        the look at it has returned."""
        with self._lock:
            left = [thing for thing in things if thing not in self._hanging]
        while left:
            seen: queue.SimpleQueue[Seen] = queue.SimpleQueue()
            given_up = threading.Event()
            threading.Thread(
                target=self._look_at, args=(left, seen, given_up), name="look", daemon=True
            ).start()
            for number, thing in enumerate(left):
                answer = self._wait(thing, seen, given_up)
                yield thing, answer
                if answer is None:
                    left = left[number + 1 :]
                    break
            else:
                return

    def _wait(self, thing: Thing, seen: queue.SimpleQueue[Seen], given_up: threading.Event) -> Seen | None:
        try:
            return seen.get(timeout=self._patience_s)
        except queue.Empty:
            with self._lock:  # it may answer this very moment
                if not seen.empty():
                    return seen.get()
                self._hanging.add(thing)
                given_up.set()
                return None

    def _look_at(
        self, things: Sequence[Thing], seen: queue.SimpleQueue[Seen], given_up: threading.Event
    ) -> None:
        for thing in things:
            answer = self._look(thing)
            with self._lock:
                if not given_up.is_set():
                    seen.put(answer)
                    continue
            try:
                self._late(thing, answer)
            finally:
                with self._lock:
                    self._hanging.discard(thing)
            return
