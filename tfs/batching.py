"""Batching parameters -> the core: the threads that run batches, the settings of each version, their change while running.

Owns: the process's BatchThreads, which file a version's settings come from, the watch over those files.  Must not know: how calls
are batched (the core), when versions come and go.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from dataclasses import asdict
from typing import Any, Final

from tfs import config, cores
from tfs._fastpath import BatchThreads, LoadedServable
from tfs.config import BatchingParameters, LoadingOptions
from tfs.errors import TfsError

_log = logging.getLogger(__name__)

PER_MODEL_FILE: Final = "batching_params.pbtxt"
# More than the core will start; the file may say any 64-bit number.
_MOST_THREADS: Final = 1 << 20
_DEFAULT_POOL_NAME: Final = "batch_threads"
# A file system that hangs must not hold the end of the process.
_LAST_READ_S: Final = 2.0
# Read once for the whole process; a per-model file cannot change them, as in the reference.
_PROCESS_WIDE: Final = frozenset({"num_batch_threads", "thread_pool_name"})


def core_parameters(parameters: BatchingParameters) -> dict[str, Any]:
    """The keyword arguments of LoadedServable.enable_batching and update_batching."""
    return {name: value for name, value in asdict(parameters).items() if name not in _PROCESS_WIDE}


class Batching:
    """Batches the versions that are to be batched. `configure` and `reload` may be called from any thread.

    options: how versions are loaded; parameters_file: --batching_parameters_file, watched when not empty."""

    def __init__(self, options: LoadingOptions, parameters_file: str) -> None:
        """Starts the batch threads when batching is on. Raises TfsError when they cannot be started."""
        self._options = options
        self._file = parameters_file
        self._common = options.batching
        self._lock = threading.Lock()
        # version directory of each batched version (what it was configured with stands beside it)
        self._known: weakref.WeakKeyDictionary[LoadedServable, tuple[str, BatchingParameters]]
        self._known = weakref.WeakKeyDictionary()
        self._seen = b""  # the content that `_common` was read from
        self._complaints: dict[str, str] = {}
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self.threads: BatchThreads | None = None
        if self._common is not None:
            number = min(self._common.num_batch_threads or cores.usable(), _MOST_THREADS)
            self.threads = BatchThreads(number, self._common.thread_pool_name or _DEFAULT_POOL_NAME)

    def configure(self, servable: LoadedServable, directory: str) -> None:
        """Turns batching on for a version that was just loaded, if it is to be batched. Raises InvalidArgument for wrong settings,
        and what reading its own file raises."""
        if self.threads is None:
            return
        with self._lock:  # a reload must see the version, or the version the reloaded file
            parameters = self._parameters(directory)
            if parameters is None:
                return
            servable.enable_batching(self.threads, **core_parameters(parameters))
            self._known[servable] = directory, parameters

    def reload(self) -> None:
        """Reads the files again and gives changed settings to the versions in service, for the batches to come. What cannot be read or
        used leaves them as they are and is logged once; so is a change that needs a restart."""
        with self._lock:
            if self._common is not None and self._file:
                self._read_common(self._common)
            for servable, (directory, before) in list(self._known.items()):
                self._update(servable, directory, before)

    def watch(self, period_s: float) -> None:
        """Reloads every `period_s` seconds on a thread of its own, until `close`. Nothing when no file can change."""
        if self.threads is None or not (self._file or self._options.per_model_batching):
            return

        def body() -> None:
            while not self._stop.wait(period_s):
                try:
                    self.reload()
                except Exception:
                    _log.exception("reading the batching parameters failed; the watch goes on")

        self._watcher = threading.Thread(target=body, name="tfs-batching", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Ends the watch. The threads are the engine's to close, when no call is under way any more."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join(_LAST_READ_S)

    def _parameters(self, directory: str) -> BatchingParameters | None:
        """What a version in `directory` is to be batched with; None = not at all."""
        if not self._options.per_model_batching:
            return self._common
        path = os.path.join(directory, PER_MODEL_FILE)
        return config.read_batching_parameters(path) if os.path.exists(path) else None

    def _read_common(self, before: BatchingParameters) -> None:
        try:
            with open(self._file, "rb") as file:
                content = file.read()
            if content == self._seen:
                return
            self._common = config.read_batching_parameters(self._file)
            self._seen = content
        except (OSError, TfsError) as error:
            self._complain(self._file, f"{self._file} is not taken over: {error}")
            return
        for name in sorted(_PROCESS_WIDE):
            if getattr(self._common, name) != getattr(before, name):
                _log.warning("%s: a change of %s is taken over by a restart only", self._file, name)

    def _complain(self, about: str, text: str) -> None:
        if self._complaints.get(about) != text:
            self._complaints[about] = text
            _log.error("%s", text)

    def _update(self, servable: LoadedServable, directory: str, before: BatchingParameters) -> None:
        try:
            parameters = self._parameters(directory)
            if parameters is None or parameters == before:
                return  # without its file a version keeps what it has: batching cannot be turned off under calls that wait
            servable.update_batching(**core_parameters(parameters))
        except TfsError as error:
            name = f"{servable.name} version {servable.version}"
            self._complain(name, f"{name} keeps its batching parameters: {error.message}")
            return
        self._known[servable] = directory, parameters
        _log.info("%s version %d: changed batching parameters", servable.name, servable.version)
