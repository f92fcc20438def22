"""The aspired-versions manager: owns every version from its first aspiration to its end.

Owns: the versions and their phases, retries, the order of publishing and reporting. Asks the policy what to do, gives the blocking
work to two pools, swaps the serving map through `publish`. Must not know directories, configuration or the data path.

Strategy: one control loop owns all state. `set_aspired` and finished tasks only leave a note in the inbox and wake the loop;
`step` takes the notes, lets the policy act on the models concerned, and says when it wants to be called again. Tests step by hand.
A state is reported after it is true for AVAILABLE (the map with the version is out) and before it is true for UNLOADING.
A load that waits to be tried again holds no thread, so a broken model costs the others nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from tfs.errors import Cancelled, TfsError
from tfs.lifecycle.loader import Attempt, Loader, S
from tfs.lifecycle.monitor import StateMonitor
from tfs.lifecycle.policy import Phase, Policy, Snapshot, Verb
from tfs.lifecycle.pool import Pool
from tfs.lifecycle.source import AspiredVersion
from tfs.lifecycle.states import ServableId, State

log = logging.getLogger("tfs.lifecycle.manager")

Publish = Callable[
    [Mapping[str, Mapping[int, S]]], None
]  # model -> version -> servable; the map as it is from now on


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_retries` attempts after the first one, `interval_s` apart (none when it is not positive)."""

    max_retries: int
    interval_s: float


@dataclass(eq=False, slots=True)
class _Version(Generic[S]):
    """One managed version. Only the control loop writes it."""

    id: ServableId
    path: str
    phase: Phase = Phase.NEW
    aspired: bool = True
    servable: S | None = None
    attempts: int = 0
    retry_at: float | None = None  # monotonic seconds, while waiting to be tried again
    last_error: TfsError | None = None


Note = Callable[[], None]


class Manager(Generic[S]):
    """`set_aspired`, `start` and `close` may be called from any thread; `step` only when `start` was not."""

    def __init__(
        self,
        loader: Loader[S],
        publish: Publish[S],
        monitor: StateMonitor,
        policy: Policy,
        retry: RetryPolicy,
        *,
        load_pool: Pool,
        unload_pool: Pool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = loader
        self._publish = publish
        self._monitor = monitor
        self._policy = policy
        self._retry = retry
        self._load_pool = load_pool
        self._unload_pool = unload_pool
        self._clock = clock
        self._models: dict[str, dict[int, _Version[S]]] = {}
        self._pending: dict[str, Sequence[AspiredVersion]] = {}  # lists that wait for a removal to end
        self._published: dict[str, dict[int, S]] = {}
        self._map_changed = False
        self._wake = threading.Condition()
        self._inbox: list[Note] = []
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- from any thread

    def set_aspired(self, name: str, versions: Sequence[AspiredVersion]) -> None:
        """From now on exactly `versions` of model `name` are wanted. Returns at once."""
        wanted = list(versions)
        self._note(lambda: self._set_pending(name, wanted))

    def set_load_threads(self, limit: int) -> None:
        """How many loads may run at once from now on."""
        self._load_pool.set_limit(limit)

    def start(self) -> None:
        """Runs the control loop on a thread of its own; does nothing after `close`."""
        with self._wake:
            if not self._closed:
                self._thread = threading.Thread(target=self._run, name="tfs-manager", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Ends the control loop, takes everything out of the map and frees it; False when a load or an unload did not end in
        time (its thread is left behind). No state is reported for it: the process is about to end."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        until = self._clock() + timeout_s
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._load_pool.cancel()
        done = self._load_pool.close(max(until - self._clock(), 0.0))
        self._take_notes()  # loads that have ended meanwhile
        self._publish({})
        servables = [
            v.servable for versions in self._models.values() for v in versions.values() if v.servable
        ]
        for servable in servables:
            servable.wait_unused(max(until - self._clock(), 0.0))
            servable.close()
        return self._unload_pool.close(max(until - self._clock(), 0.0)) and done

    # -- the control loop

    def step(self) -> float | None:
        """Does everything that can be done now; returns the seconds until a retry is due, None when there is none to wait for."""
        self._take_notes()
        self._publish_if_changed()
        touched = True
        while (
            touched
        ):  # an applied list gives the policy work, and a dropped version may let a pending list through
            touched = self._drop_finished() | self._apply_pending()
            for name in list(self._models):
                touched |= self._act(name)
        return self._try_again()

    def _run(self) -> None:
        while True:
            try:
                delay = self.step()
            except Exception:  # a bug; whatever it was about, the other models go on
                log.exception("the control loop of the life cycle failed in one step; it goes on")
                delay = 1.0
            with self._wake:
                if not self._inbox and not self._closed:
                    self._wake.wait(delay)
                if self._closed:
                    return

    def _note(self, note: Note) -> None:
        with self._wake:
            self._inbox.append(note)
            self._wake.notify_all()

    def _take_notes(self) -> None:
        with self._wake:
            notes, self._inbox = self._inbox, []
        for note in notes:
            note()

    # -- aspired lists

    def _set_pending(self, name: str, versions: Sequence[AspiredVersion]) -> None:
        self._pending[name] = versions

    def _apply_pending(self) -> bool:
        """Applies the waiting lists; a list that names a version which is still being removed is applied to the other versions
        now and stays for that one until the removal is over."""
        changed = False
        for name, wanted in list(self._pending.items()):
            managed = self._models.setdefault(name, {})
            changed |= self._unaspire(managed.values(), {w.version for w in wanted})
            blocked = False
            for version, path in wanted:
                known = managed.get(version)
                if known is None:
                    managed[version] = self._accept(ServableId(name, version), path)
                    changed = True
                elif known.aspired:
                    self._check_path(known, path)
                elif known.phase is Phase.READY:
                    known.aspired = True
                    changed = True
                else:
                    blocked = True
            if not blocked:
                del self._pending[name]
        return changed

    def _accept(self, servable_id: ServableId, path: str) -> _Version[S]:
        self._monitor.report(servable_id, State.START)
        return _Version(servable_id, path)

    def _check_path(self, known: _Version[S], path: str) -> None:
        """Two directories of one number, or a base path that was changed under a managed version: the first one stays."""
        if path != known.path:
            log.error(
                "servable version %s is already managed from %s; %s is ignored", known.id, known.path, path
            )

    def _unaspire(self, managed: Iterable[_Version[S]], wanted: set[int]) -> bool:
        changed = False
        for version in managed:
            if not version.aspired or version.id.version in wanted:
                continue
            version.aspired = False
            changed = True
            if version.phase is Phase.NEW:
                self._give_up(version, Cancelled("Loading of servable cancelled"))
            elif version.retry_at is not None:
                self._give_up(version, version.last_error)
        return changed

    def _drop_finished(self) -> bool:
        """Forgets the un-aspired versions that have ended; only then may they be aspired again."""
        dropped = False
        for name, managed in list(self._models.items()):
            for number in [n for n, v in managed.items() if v.phase is Phase.FAILED and not v.aspired]:
                del managed[number]
                dropped = True
            if not managed and name not in self._pending:
                del self._models[name]
        return dropped

    # -- actions

    def _act(self, name: str) -> bool:
        """Lets the policy act on one model until it has nothing more to do."""
        acted = False
        managed = self._models[name]
        while (
            action := self._policy([Snapshot(n, v.phase, v.aspired) for n, v in managed.items()])
        ) is not None:
            acted = True
            version = managed[action.version]
            if action.verb is Verb.LOAD:
                log.info("Loading servable version %s from %s", version.id, version.path)
                version.phase = Phase.LOADING
                self._submit_load(version)
            else:
                self._begin_unload(version)
        return acted

    def _submit_load(self, version: _Version[S]) -> None:
        version.attempts += 1
        version.retry_at = None

        def on_loading() -> None:
            if self._monitor.state(version.id) is State.START:
                self._monitor.report(version.id, State.LOADING)

        def task() -> None:
            attempt = self._loader.attempt(version.id, version.path, on_loading)
            self._note(lambda: self._finish_attempt(version, attempt))

        self._load_pool.submit(task)

    def _finish_attempt(self, version: _Version[S], attempt: Attempt[S]) -> None:
        if attempt.error is not None:
            self._attempt_failed(version, attempt.error)
            return
        version.servable = attempt.servable
        if not version.aspired:
            self._discard(version)
            return
        version.phase = Phase.READY
        self._map_changed = True
        log.info(
            "Successfully loaded servable version %s in %.3f s (warm-up %.3f s)",
            version.id,
            attempt.load_s + attempt.warm_up_s,
            attempt.warm_up_s,
        )

    def _attempt_failed(self, version: _Version[S], error: TfsError) -> None:
        version.last_error = error
        self._monitor.attempt_failed(version.id, error)
        left = self._retry.max_retries + 1 - version.attempts
        retry = version.aspired and left > 0
        interval_s = max(self._retry.interval_s, 0.0)
        log.error(
            "Loading servable version %s from %s failed: %s%s",
            version.id,
            version.path,
            error.status_text,
            f" (trying again in {interval_s:g} s, {left} times at most)" if retry else "",
        )
        if retry:
            version.retry_at = self._clock() + interval_s
        else:
            self._give_up(version, error)

    def _give_up(self, version: _Version[S], error: TfsError | None) -> None:
        version.phase = Phase.FAILED
        version.retry_at = None
        self._monitor.report(version.id, State.END, error)

    def _try_again(self) -> float | None:
        """Submits the loads whose time has come; returns the seconds until the next one's."""
        due: list[float] = []
        now = self._clock()
        for managed in self._models.values():
            for version in managed.values():
                if version.retry_at is None:
                    continue
                if version.retry_at <= now:
                    self._submit_load(version)
                else:
                    due.append(version.retry_at - now)
        return min(due, default=None)

    def _begin_unload(self, version: _Version[S]) -> None:
        log.info("Unloading servable version %s", version.id)
        self._monitor.report(version.id, State.UNLOADING)
        version.phase = Phase.UNLOADING
        self._map_changed = True
        self._publish_if_changed()
        self._submit_unload(version, None)

    def _discard(self, version: _Version[S]) -> None:
        """A load that ended well after nobody wanted the version any more."""
        version.phase = Phase.UNLOADING
        self._submit_unload(version, Cancelled("Loading of servable cancelled"))

    def _submit_unload(self, version: _Version[S], outcome: TfsError | None) -> None:
        servable = version.servable
        assert servable is not None
        version.servable = None

        def task() -> None:
            took_s = self._loader.unload(version.id, servable)
            log.info("Successfully unloaded servable version %s in %.3f s", version.id, took_s)
            self._note(lambda: self._give_up(version, outcome))

        self._unload_pool.submit(task)

    # -- the map

    def _publish_if_changed(self) -> None:
        """Swaps the map, then reports what has become available with it."""
        if not self._map_changed:
            return
        self._map_changed = False
        serving: dict[str, dict[int, S]] = {}
        for name, managed in self._models.items():
            ready = {
                n: v.servable for n, v in managed.items() if v.phase is Phase.READY and v.servable is not None
            }
            if ready:
                serving[name] = ready
        before, self._published = self._published, serving
        self._publish(serving)
        for name, ready in serving.items():
            for number in sorted(ready):
                if number not in before.get(name, {}):
                    self._monitor.report(ServableId(name, number), State.AVAILABLE)
