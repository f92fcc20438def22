"""The two halves of the serving map, put together: servables come from the manager, labels from the configuration.

Owns: the latest of both and the one call that swaps the map in the core. Knows neither states nor configuration messages.
Thread-safe; `publish` of the core must not block on loads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic

from tfs.lifecycle.loader import S

Labels = Mapping[str, Mapping[str, int]]  # model -> label -> version
CorePublish = Callable[[Mapping[str, Mapping[int, S]], Labels | None], None]


class ServingMap(Generic[S]):
    def __init__(self, publish: CorePublish[S]) -> None:
        """`publish(models, labels)` is `Engine.publish`; `labels` None: no configuration with models was applied yet."""
        self._publish = publish
        self._lock = threading.Lock()
        self._models: Mapping[str, Mapping[int, S]] = {}
        self._labels: Labels | None = None

    def set_servables(self, models: Mapping[str, Mapping[int, S]]) -> None:
        with self._lock:
            self._models = models
            self._publish(models, self._labels)

    def set_labels(self, labels: Labels) -> None:
        with self._lock:
            if labels != self._labels:
                self._labels = labels
                self._publish(self._models, labels)

    @property
    def labels(self) -> Labels | None:
        return self._labels
