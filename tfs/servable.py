"""A loaded version: TensorFlow found and loaded once, then SavedModels loaded into compiled servables.

Owns: where the TensorFlow library is, the environment it is loaded with, what a load does beside TensorFlow's own work (op packages
on demand, batching, warnings).  Must not know: versions policy, retries, transports.  Python `tensorflow` is never imported.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfs import _fastpath, op_linker
from tfs._fastpath import LoadedServable
from tfs.errors import FailedPrecondition, NotFound, TfsError, Unimplemented

_log = logging.getLogger(__name__)

_INSTALL = "TensorFlow is not installed: pip install 'tfs[server]' (or 'tfs[cpu]' without GPU support, 'tfs[gpu]' with the CUDA libraries)"

_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")

# Turns a failed load into a retry when a missing op package could be loaded: (error text) -> whether to try again.
EnsureOps = Callable[[str], bool]
Configure = Callable[[LoadedServable, str], None]
CountLoad = Callable[[str, bool, float], None]  # (directory, succeeded, microseconds)


def tensorflow_directory() -> str:
    """The directory of the installed tensorflow package, found without importing it; raises FailedPrecondition when there is none."""
    spec = importlib.util.find_spec("tensorflow")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or not os.path.exists(os.path.join(places[0], _fastpath.TF_LIBRARY)):
        raise FailedPrecondition(_INSTALL)
    return places[0]


def load_tensorflow(*, xla: bool) -> str:
    """Loads TensorFlow's library into the process and returns its version; sets the environment that it reads at load.

    `xla`: leave XLA's automatic clustering to TensorFlow's own flags; without it none is asked for. Main thread or one worker."""
    directory = tensorflow_directory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # its INFO lines at load say nothing about the models
    if xla:
        flags = os.environ.get("TF_XLA_FLAGS", "")
        os.environ["TF_XLA_FLAGS"] = f"{flags} --tf_xla_auto_jit=2 --tf_xla_cpu_global_jit".strip()
    return _fastpath.load_runtime(directory)


def load_op_libraries(paths: Sequence[str]) -> None:
    """--op_libraries: loads each shared library with custom ops. Raises TfsError naming the one that does not load."""
    for path in paths:
        try:
            op_linker.load_op_library(Path(path))
        except TfsError as error:
            raise TfsError(f"--op_libraries: {path} does not load: {error.message}", error.code) from None
        _log.info("Loaded the op library %s", path)


def check_saved_model(path: str) -> None:
    """Raises the reference's errors for a directory that holds no SavedModel; TensorFlow's own text differs."""
    if any(os.path.exists(os.path.join(path, name)) for name in _SAVED_MODEL_FILES):
        return
    if os.path.exists(os.path.join(path, "export.meta")):
        raise Unimplemented("Session Bundle is deprecated and removed.")
    raise NotFound(
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called `saved_model.pb`)\n"
        f"Specified file path: {path}"
    )


@dataclass(frozen=True, slots=True)
class ServableLoader:
    """Loads versions; `load` is what the life cycle calls, on any thread.

    tags: the MetaGraph's; session_config: a serialized ConfigProto; ensure_ops: see EnsureOps; configure: called with the new servable
    and its directory before it is handed over (batching); count_load: for the metrics."""

    tags: Sequence[str]
    session_config: bytes
    ensure_ops: EnsureOps
    configure: Configure
    count_load: CountLoad

    def load(self, name: str, version: int, path: str) -> LoadedServable:
        """The SavedModel in `path`. Blocks; raises TfsError with TensorFlow's code and text. Logs what its user should know."""
        started = time.monotonic()
        try:
            servable = self._load(name, version, path)
        except TfsError:
            self.count_load(path, False, (time.monotonic() - started) * 1e6)
            raise
        self.count_load(path, True, (time.monotonic() - started) * 1e6)
        try:
            self.configure(servable, path)
        except TfsError:
            servable.close()
            raise
        for warning in servable.warnings:
            _log.warning("%s version %d: %s", name, version, warning)
        return servable

    def _load(self, name: str, version: int, path: str) -> LoadedServable:
        while True:  # once per library that is missing: TensorFlow names one op at a time
            try:
                return self._attempt(name, version, path)
            except NotFound as error:
                if not self.ensure_ops(error.message):
                    raise

    def _attempt(self, name: str, version: int, path: str) -> LoadedServable:
        check_saved_model(path)
        return LoadedServable.load(name, version, path, tags=self.tags, session_config=self.session_config)
