"""One attempt to load a version, and the end of one: the blocking work that the manager gives to its pools.

Owns: the order of an attempt (probe the files, load, warm up), what is closed when a later step fails, the drain of an
unload, and handing memory back to the system. Must not know policies, retries or the serving map.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from tfs.errors import Internal, TfsError
from tfs.lifecycle import files
from tfs.lifecycle.memory import give_memory_back
from tfs.lifecycle.states import ServableId

log = logging.getLogger("tfs.lifecycle.loader")


class LoadedServable(Protocol):
    """What the life cycle needs of a loaded version; `tfs._fastpath.Servable` is one."""

    def wait_unused(self, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


S = TypeVar("S", bound=LoadedServable)

Load = Callable[[str, int, str], S]  # (model name, version, directory) -> servable; raises TfsError
WarmUp = Callable[
    [S, str], None
]  # (servable, directory); raises TfsError when the version must not be served


class Attempt(NamedTuple, Generic[S]):
    """How a load attempt went: exactly one of `servable` and `error` is set."""

    servable: S | None
    error: TfsError | None
    load_s: float
    warm_up_s: float


class Loader(Generic[S]):
    """Stateless; `attempt` and `unload` block and may run on any number of threads at once."""

    def __init__(self, load: Load[S], warm_up: WarmUp[S] | None, unload_grace_s: float) -> None:
        self._load = load
        self._warm_up = warm_up
        self._unload_grace_s = unload_grace_s

    def attempt(self, servable_id: ServableId, path: str, on_loading: Callable[[], None]) -> Attempt[S]:
        """Loads and warms up once. `on_loading` is called when the files were found readable and the load begins. Never raises."""
        started = time.monotonic()
        servable: S | None = None
        try:
            self._probe(servable_id, path)
            on_loading()
            servable = self._load(servable_id.name, servable_id.version, path)
            loaded = time.monotonic()
            if self._warm_up is not None:
                self._warm_up(servable, path)
            return Attempt(servable, None, loaded - started, time.monotonic() - loaded)
        except Exception as e:
            if servable is not None:
                servable.close()
            give_memory_back()
            return Attempt(None, _as_tfs_error(servable_id, e), time.monotonic() - started, 0.0)

    def unload(self, servable_id: ServableId, servable: S) -> float:
        """Waits for the calls that hold `servable`, frees it, returns the seconds it took. Never raises."""
        started = time.monotonic()
        try:
            if not servable.wait_unused(self._unload_grace_s):
                log.warning(
                    "servable version %s is still in use after %g s; its session is closed and the calls in it are cancelled",
                    servable_id,
                    self._unload_grace_s,
                )
            servable.close()
        except Exception:
            log.exception("unloading servable version %s failed", servable_id)
        give_memory_back()
        return time.monotonic() - started

    def _probe(self, servable_id: ServableId, path: str) -> None:
        try:
            files.probe_tree(path)
        except TfsError as e:
            text = f"Error while attempting to reserve resources to load servable {servable_id}: {e.message}"
            raise TfsError(text, e.code) from e


def _as_tfs_error(servable_id: ServableId, error: Exception) -> TfsError:
    if isinstance(error, TfsError):
        return error
    log.error("loading servable version %s failed in an unexpected way", servable_id, exc_info=error)
    return Internal(f"loading servable version {servable_id} failed: {type(error).__name__}: {error}")
