"""The control plane's face: apply configurations, wait for models, report states. What services and the composition root call.

Owns: the configuration in force, the order of a reload, who waits for what and how long. Decides no load: the source finds
versions, the manager brings them. Must not know gRPC, HTTP or flags.

Public methods may be called from any thread but not from an event loop: `start`, `reload` and `close` block.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic

from tfs.errors import Cancelled, Code, DeadlineExceeded, InvalidArgument, NotFound, TfsError
from tfs.lifecycle import model_config
from tfs.lifecycle.loader import Load, Loader, S, WarmUp
from tfs.lifecycle.manager import Manager, RetryPolicy
from tfs.lifecycle.monitor import StateMonitor
from tfs.lifecycle.options import LifecycleOptions
from tfs.lifecycle.policy import POLICIES
from tfs.lifecycle.pool import ThreadPool
from tfs.lifecycle.serving_map import CorePublish, ServingMap
from tfs.lifecycle.source import Poller, Source
from tfs.lifecycle.states import ServableId, State, VersionStatus
from tfs.messages import ModelServerConfig

log = logging.getLogger("tfs.lifecycle.server_core")

ReadConfig = Callable[[], ModelServerConfig]


class _Outcome(enum.Enum):
    """How a model that somebody waits for is doing."""

    AVAILABLE = "a version serves"
    COMING = "a version is on its way"
    FAILED = "every version was given up"
    ABSENT = "no version directory"


class ServerCore(Generic[S]):
    """Wire it with `build`; then `start`, any number of `reload`, `close`."""

    def __init__(
        self,
        options: LifecycleOptions,
        *,
        manager: Manager[S],
        source: Source,
        monitor: StateMonitor,
        serving_map: ServingMap[S],
        read_config: ReadConfig | None = None,
    ) -> None:
        """`read_config` reads the model config file again, for its polling; raises TfsError for a bad file."""
        self._options = options
        self._manager = manager
        self._source = source
        self._monitor = monitor
        self._serving_map = serving_map
        self._read_config = read_config
        self._reloading = threading.Lock()
        self._config: ModelServerConfig | None = None
        self._config_problem = ""
        self._pollers: list[Poller] = []
        self._life = threading.Lock()  # guards `_closed` against threads that start while it closes
        self._closed = False

    # -- life

    def start(self, config: ModelServerConfig) -> None:
        """Applies the first configuration and blocks until every model has a version that serves. Raises TfsError with the
        reference's text when one was given up (not with allow_partial_startup), Cancelled when closed meanwhile."""
        self._manager.start()
        if self._options.file_system_poll_wait_seconds > 0:
            self._poll_every(self._options.file_system_poll_wait_seconds, self._source.poll, "tfs-source")
        with self._reloading:
            mark = self._apply(config)
            if mark is not None:
                self._wait_for_start(model_config.names(config), mark)
                model_config.check_logging(config)
        threads = self._options.num_load_threads or self._options.initial_load_threads
        self._manager.set_load_threads(threads)
        period = self._options.model_config_file_poll_wait_seconds
        if self._read_config is not None and period > 0:
            self._poll_every(period, self._poll_config, "tfs-model-config")

    def close(self, timeout_s: float = 30.0) -> bool:
        """Stops polling, empties the map, frees every servable; False when something still ran after `timeout_s`. Transports
        must have answered their calls before. Idempotent."""
        with self._life:
            if self._closed:
                return True
            self._closed = True
        self._monitor.wake()
        until = time.monotonic() + timeout_s
        quiet = [poller.close(max(until - time.monotonic(), 0.0)) for poller in self._pollers]
        return self._manager.close(max(until - time.monotonic(), 0.0)) and all(quiet)

    # -- for the services

    def reload(self, config: ModelServerConfig, timeout_s: float | None = None) -> None:
        """HandleReloadConfigRequest: replaces the set of models and waits until each new name has a version that serves.
        Raises TfsError; after `timeout_s` (or the limit of the options) DeadlineExceeded, while the loads go on."""
        if config.WhichOneof("config") != "model_config_list":
            raise InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
            )
        self._reload(config, timeout_s)

    def model_status(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """The last state of `version`, or of every version ever seen, highest first; raises NotFound. Does not block."""
        if version is None:
            statuses = self._monitor.versions(name)
            if not statuses:
                raise NotFound(f"Could not find any versions of model {name}")
            return statuses
        status = self._monitor.status(ServableId(name, version))
        if status is None:
            raise NotFound(f"Could not find version {version} of model {name}")
        return [status]

    def model_names(self) -> list[str]:
        """Configured models and those ever seen, sorted. Does not block."""
        return sorted({*model_config.names(self._config), *self._monitor.models()})

    # -- applying a configuration

    def _reload(self, config: ModelServerConfig, timeout_s: float | None) -> None:
        limit_s = self._options.reload_wait_limit_s
        until = time.monotonic() + (limit_s if timeout_s is None else min(timeout_s, limit_s))
        if not self._reloading.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise DeadlineExceeded("Timed out waiting for another reload of the model configuration to end")
        try:
            before = set(model_config.names(self._config))
            mark = self._apply(config)
            if mark is not None:
                new = [name for name in model_config.names(config) if name not in before]
                self._wait_for_new(new, mark, until)
                model_config.check_logging(config)
        finally:
            self._reloading.release()

    def _apply(self, config: ModelServerConfig) -> int | None:
        """Validates `config` whole, then puts it in force; returns the monitor's serial from before, None for an empty one.
        A refused configuration changes nothing (the reference remembers it and may refuse all later ones because of it)."""
        model_config.check(config, self._config)
        if config.WhichOneof("config") is None:
            log.info("Taking no action for empty config.")
            return None
        labels = model_config.labels(
            config,
            self._serving_map.labels or {},
            lambda servable: self._monitor.state(servable) is State.AVAILABLE,
            self._options.allow_version_labels_for_unavailable_models,
        )
        model_config.check_platforms(config, self._options.platforms)
        self._config = ModelServerConfig.FromString(config.SerializeToString())
        mark = self._monitor.serial
        self._serving_map.set_labels(labels)
        self._source.set_models(model_config.source_models(config))
        if self._options.file_system_poll_wait_seconds >= 0:
            self._source.poll()
        return mark

    def _poll_config(self) -> None:
        """One round of the config file's polling: a bad file or a refused configuration is logged (once), nothing changes."""
        assert self._read_config is not None
        try:
            self._reload(self._read_config(), None)
            problem = ""
        except TfsError as e:
            problem = e.status_text
        if problem and problem != self._config_problem and not self._closed:
            log.error("The model config file was not applied: %s", problem)
        self._config_problem = problem

    def _poll_every(self, period_s: float, poll: Callable[[], None], name: str) -> None:
        with self._life:
            if not self._closed:
                poller = Poller(poll, period_s, name)
                self._pollers.append(poller)
                poller.start()

    # -- waiting for models

    def _wait_for_start(self, names: Sequence[str], mark: int) -> None:
        partial = self._options.allow_partial_startup
        unsettled = {_Outcome.COMING} if partial else {_Outcome.COMING, _Outcome.ABSENT}

        def settled() -> bool:
            return self._closed or all(self._outcome(n, mark, partial) not in unsettled for n in names)

        self._monitor.wait_for(settled)
        self._check_open()
        try:
            self._raise_for_missing(names, mark, "servable")
        except TfsError as e:
            if not partial:
                raise
            log.error("Starting without all models, as --allow_partial_startup says: %s", e.message)

    def _wait_for_new(self, names: Sequence[str], mark: int, until: float) -> None:
        """New models that have a version directory are waited for until `until`; without one only a short while."""

        def nothing_left(*unsettled: _Outcome) -> bool:
            return self._closed or all(self._outcome(n, mark, False) not in unsettled for n in names)

        polls = self._options.file_system_poll_wait_seconds > 0
        grace_s = self._options.no_versions_wait_s if polls else 0.0
        grace_s = min(grace_s, max(until - time.monotonic(), 0.0))
        self._monitor.wait_for(lambda: nothing_left(_Outcome.COMING, _Outcome.ABSENT), grace_s)
        left_s = max(until - time.monotonic(), 0.0)
        in_time = self._monitor.wait_for(lambda: nothing_left(_Outcome.COMING), left_s)
        self._check_open()
        if not in_time:
            late = [n for n in names if self._outcome(n, mark, False) is _Outcome.COMING]
            raise DeadlineExceeded(f"Timed out waiting for model(s) to become available: {', '.join(late)}")
        self._raise_for_missing(names, mark, "model")

    def _outcome(self, name: str, mark: int, failed_attempts_count: bool) -> _Outcome:
        """With `failed_attempts_count` a version whose load failed once counts as given up while it is tried again."""
        statuses = self._monitor.versions(name)
        if any(status.state is State.AVAILABLE for status in statuses):
            return _Outcome.AVAILABLE
        fresh = [status for status in statuses if status.serial > mark]
        failed = any(_gave_up(status) for status in fresh)
        for status in fresh:
            if status.state not in (State.START, State.LOADING):
                continue
            if not failed_attempts_count or status.attempt_error is None:
                return _Outcome.COMING
            failed = True
        if failed:
            return _Outcome.FAILED
        return _Outcome.COMING if self._source.found(name) else _Outcome.ABSENT

    def _raise_for_missing(self, names: Sequence[str], mark: int, noun: str) -> None:
        entries = []
        for name in names:
            if self._outcome(name, mark, True) is not _Outcome.AVAILABLE:
                entries.append("{" + self._reason(name, mark) + "}, ")
        if entries:
            text = f"{len(entries)} {noun}(s) did not become available: {{{''.join(entries)}}}"
            raise TfsError(text, Code.UNKNOWN)

    def _reason(self, name: str, mark: int) -> str:
        for status in self._monitor.versions(name):
            error = status.error or status.attempt_error
            if status.serial > mark and error is not None:
                return f"{status.id} due to error: {error.status_text}"
        problem = self._source.problem(name) or "no version was loaded"
        return f"{{name: {name}}} due to error: {NotFound(problem).status_text}"

    def _check_open(self) -> None:
        if self._closed:
            raise Cancelled("The server is shutting down")


def _gave_up(status: VersionStatus) -> bool:
    """A load that failed for good; not an unload, nor a load that was called off (that version may be wanted again by now)."""
    return status.state is State.END and status.error is not None and status.error.code is not Code.CANCELLED


def build(
    options: LifecycleOptions,
    load: Load[S],
    warm_up: WarmUp[S] | None,
    publish: CorePublish[S],
    read_config: ReadConfig | None = None,
) -> ServerCore[S]:
    """A ServerCore with its parts: `load` makes a servable of a directory, `publish` is `Engine.publish`."""
    monitor = StateMonitor()
    serving_map = ServingMap(publish)
    manager = Manager(
        Loader(load, warm_up, options.unload_grace_s),
        serving_map.set_servables,
        monitor,
        POLICIES[options.aspired_version_policy],
        RetryPolicy(options.max_num_load_retries, options.load_retry_interval_micros / 1e6),
        load_pool=ThreadPool("tfs-load", options.initial_load_threads),
        unload_pool=ThreadPool("tfs-unload", options.num_unload_threads or options.initial_load_threads),
    )
    return ServerCore(
        options,
        manager=manager,
        source=Source(manager.set_aspired),
        monitor=monitor,
        serving_map=serving_map,
        read_config=read_config,
    )
