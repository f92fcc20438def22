"""Warm-up: replays the recorded requests of a version before it serves, so that no client pays for first runs.

Owns: where the file is, its limits and failures, what is counted. Must not know how a request is run: each record goes to the
`replay` function that the composition root gives (tfs.service.examples.replay). Any error here fails the load.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic

from tfs.errors import DataLoss, InvalidArgument, TfsError
from tfs.lifecycle import tfrecord
from tfs.lifecycle.loader import S
from tfs.messages import PredictionLog

log = logging.getLogger("tfs.lifecycle.warmup")

FILE_NAME: Final = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS: Final = 1000

# Upper limits of the latency histogram in microseconds: 10 * 1.8^i, and one more bucket for the rest.
LATENCY_LIMITS_US: Final = tuple(10.0 * 1.8**i for i in range(33))

Replay = Callable[[S, PredictionLog], None]


@dataclass(slots=True)
class WarmUpRow:
    """What `model_warmup_latency` and `model_warmup_records_read` say for one version directory and status text."""

    records: int = 0
    count: int = 0
    sum_us: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_LIMITS_US) + 1))  # not cumulative


class WarmUpStats:
    """Counters of all warm-ups, as plain data for the metrics. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], WarmUpRow] = {}

    def add(self, model_path: str, status: str, records: int, latency_us: float) -> None:
        bucket = next((i for i, limit in enumerate(LATENCY_LIMITS_US) if latency_us < limit), -1)
        with self._lock:
            row = self._rows.setdefault((model_path, status), WarmUpRow())
            row.records += records
            row.count += 1
            row.sum_us += latency_us
            row.buckets[bucket] += 1

    def rows(self) -> dict[tuple[str, str], WarmUpRow]:
        """A copy: (version directory, status text) -> counters."""
        with self._lock:
            return {
                key: WarmUpRow(row.records, row.count, row.sum_us, list(row.buckets))
                for key, row in self._rows.items()
            }


class WarmUp(Generic[S]):
    """Callable as tfs.lifecycle.loader.WarmUp. Blocks; any number of threads."""

    def __init__(
        self,
        replay: Replay[S],
        iterations: int,
        stats: WarmUpStats,
        without_file: Callable[[S], None] | None = None,
    ) -> None:
        """Each record is replayed `iterations` times (once when that is not positive). `without_file` warms up versions that
        have no file (--synthetic_warmup); None: they are not warmed up."""
        self._replay = replay
        self._iterations = max(iterations, 1)
        self._stats = stats
        self._without_file = without_file

    def __call__(self, servable: S, path: str) -> None:
        """Replays the warm-up file of the version in directory `path`; raises TfsError when the version must not serve."""
        file = os.path.join(path, FILE_NAME)
        if not os.path.exists(file):
            if self._without_file is not None:
                self._without_file(servable)
            return
        started = time.monotonic()
        records = 0
        damage: DataLoss | None = None
        try:
            with open(file, "rb") as opened:
                for body in tfrecord.read(opened):
                    self._run(servable, body, file)
                    records += 1
                    if records > MAX_RECORDS:
                        raise InvalidArgument(
                            f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                        )
        except DataLoss as e:
            damage = e
        except OSError as e:
            raise DataLoss(f"{file}; {e.strerror}") from e
        latency_us = (time.monotonic() - started) * 1e6
        self._stats.add(path, damage.status_text if damage else "OK", records, latency_us)
        if damage is not None:
            raise DataLoss(f"{damage.message}. Please verify your warmup data is in TFRecord format.")
        log.info("Warmed up from %s: %d records in %.3f s", file, records, latency_us / 1e6)

    def _run(self, servable: S, body: bytes, file: str) -> None:
        from google.protobuf.message import DecodeError

        try:
            record = PredictionLog.FromString(body)
        except DecodeError:
            text = body.decode("utf-8", "replace")
            raise InvalidArgument(f"Failed to parse warmup record: {text} from {file}") from None
        for _ in range(self._iterations):
            try:
                self._replay(servable, record)
            except DataLoss as e:
                raise TfsError(e.message, e.code) from e  # the request's own error, not damage of the file
