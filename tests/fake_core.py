"""Stand-ins for the compiled core and the control plane, scripted by the test.

Owns: `FakeEngine`, `FakeServable`, `FakeOutputs`, `FakeCore`.  They have the face that `tfs/_fastpath.pyi` and `tfs.service.model`
describe and no behaviour of their own: a test says what a call answers, and reads what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfs.errors import NotFound, TfsError

DTYPES = {np.dtype(np.float32): 1, np.dtype(np.float64): 2, np.dtype(np.int32): 3, np.dtype(np.int64): 9}


class FakeTicket:
    def __init__(self) -> None:
        self.cancelled = False
        self.finish: Callable[[Any], None] = lambda result: None

    def cancel(self) -> None:
        self.cancelled = True


class FakeOutputs:
    """Output tensors: alias -> numpy array, or (shape, list of bytes) for strings."""

    def __init__(self, tensors: dict[str, Any], version: int = 1) -> None:
        self.tensors, self.version, self.aliases = tensors, version, list(tensors)

    def dtype(self, alias: str) -> int:
        value = self.tensors[alias]
        return 7 if isinstance(value, tuple) else DTYPES[value.dtype]

    def shape(self, alias: str) -> tuple[int, ...]:
        value = self.tensors[alias]
        return value[0] if isinstance(value, tuple) else value.shape

    def strings(self, alias: str) -> list[bytes]:
        return self.tensors[alias][1]

    def numbers(self, alias: str) -> memoryview:
        return memoryview(self.tensors[alias].tobytes())


@dataclass
class FakeServable:
    name: str = "m"
    version: int = 1
    signature_defs: dict[str, bytes] = field(default_factory=dict)
    unions: list[list[str]] = field(default_factory=list)
    most_unions: int = 16

    def define_union(self, signatures: list[str]) -> str | None:
        if len(self.unions) == self.most_unions:
            return None
        self.unions.append(list(signatures))
        return "union:" + "+".join(signatures)


class FakeMailbox:
    def fileno(self) -> int:
        return -1


class FakeEngine:
    """Answers what the test put into `answer`, `json_answer` and `outputs`.

    bytes or FakeOutputs: at once.  A TfsError: raised.  A float: later, after so many seconds on the loop, what is in `late`.
    None: never (the ticket can be cancelled)."""

    def __init__(self, servables: list[FakeServable] | None = None) -> None:
        self.servables = servables or []
        self.answer: Any = b"reply"
        self.json_answer: Any = b'{"predictions": [1.0]}'
        self.outputs: Any = None
        self.late: Any = b"late"
        self.asked: list[tuple[Any, ...]] = []
        self.counted: list[tuple[Any, ...]] = []
        self.tickets: list[FakeTicket] = []

    def _give(self, answer: Any, done: Callable[[Any], None]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        if answer is None or isinstance(answer, float):
            ticket = FakeTicket()
            self.tickets.append(ticket)
            if answer is not None:
                asyncio.get_running_loop().call_later(answer, done, self.late)
            return ticket
        return answer

    def predict(self, mailbox: Any, request: bytes, timeout_ns: int | None, done: Any, entry: int = 0) -> Any:
        self.asked.append(("predict", request, timeout_ns, entry))
        return self._give(self.answer, done)

    def predict_json(  # noqa: PLR0917
        self, mailbox: Any, body: bytes, model: str, version: Any, label: Any, timeout_ns: Any, done: Any
    ) -> Any:
        self.asked.append(("json", bytes(body), model, version, label, timeout_ns))
        return self._give(self.json_answer, done)

    def run(  # noqa: PLR0917
        self, mailbox: Any, request: bytes, timeout_ns: Any, done: Any, method: int = 0, entry: int = 0
    ) -> Any:
        self.asked.append(("run", request, timeout_ns, method, entry))
        return self._give(self.outputs, done)

    def run_on(self, servable: Any, request: bytes, method: int = 0) -> Any:
        self.asked.append(("run_on", servable.name, request, method))
        return self._give(self.outputs, lambda result: None)

    def resolve(self, model: str, version: int | None, label: str | None) -> Any:
        for servable in sorted(self.servables, key=lambda one: -one.version):
            if servable.name == model and version in (None, servable.version):
                return servable
        wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        raise NotFound(f"Servable not found for request: {wanted}")

    def count_request(self, model: str, method: int, entry: int, code: int, latency_ns: int) -> None:
        assert latency_ns >= 0
        self.counted.append((model, method, entry, code))


@dataclass
class FakeStatus:
    version: int
    state: int
    error: TfsError | None = None


class FakeCore:
    """A control plane: name -> statuses; reloads are kept."""

    def __init__(self, models: dict[str, list[FakeStatus]]) -> None:
        self.models = models
        self.reloads: list[Any] = []
        self.refuse: TfsError | None = None

    def reload(self, config: Any, timeout_s: float | None) -> None:
        self.reloads.append(config)
        if self.refuse is not None:
            raise self.refuse

    def model_status(self, name: str, version: int | None) -> list[FakeStatus]:
        found = [one for one in self.models.get(name, []) if version in (None, one.version)]
        if found:
            return found
        if version is not None:
            raise NotFound(f"Could not find version {version} of model {name}")
        raise NotFound(f"Could not find any versions of model {name}")

    def model_names(self) -> list[str]:
        return list(self.models)
