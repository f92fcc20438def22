"""What the engine's tests share: signatures and requests as bytes, and a consumer that drains a mailbox on its own thread.

Owns: `signature`, `ask`, `Consumer`, `Room`, `threads_named`.  Must not know: what is tested.  Imports no TensorFlow.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import wiretools as wire

from tfs import _fastpath
from tfs._fastpath import Engine, FakeSession, LoadedServable, fake_servable
from tfs.errors import TfsError

MS = 1_000_000
SANITIZED = os.environ.get("TFS_TEST_BUILD") in ("asan", "tsan")
DT_FLOAT = 1
PREDICT_METHOD = b"tensorflow/serving/predict"


def tensor_info(name: str, dtype: int = DT_FLOAT) -> bytes:
    return wire.field(1, name.encode()) + wire.number(2, dtype)


def map_entry(field: int, key: str, value: bytes) -> bytes:
    return wire.field(field, wire.field(1, key.encode()) + wire.field(2, value))


def signature(
    inputs: Iterable[str] = ("x",),
    outputs: Mapping[str, str] | None = None,
    method: bytes = PREDICT_METHOD,
    defaults: Mapping[str, bytes] | None = None,
) -> bytes:
    """A SignatureDef of float inputs (fed at "<alias>:0") and outputs (alias -> tensor name)."""
    made = b"".join(map_entry(1, alias, tensor_info(f"{alias}:0")) for alias in inputs)
    made += b"".join(
        map_entry(2, alias, tensor_info(tensor)) for alias, tensor in (outputs or {"y": "out:0"}).items()
    )
    made += wire.field(3, method)
    return made + b"".join(map_entry(4, alias, proto) for alias, proto in (defaults or {}).items())


def vector(*values: float) -> bytes:
    """A TensorProto of floats, shape [n]."""
    return wire.tensor(DT_FLOAT, [len(values)], wire.field(5, wire.floats(*values)))


def ask(
    model: str = "m",
    inputs: Mapping[str, bytes] | None = None,
    spec: bytes = b"",
    output_filter: Iterable[str] = (),
) -> bytes:
    """A PredictRequest; `spec`: more fields of its ModelSpec."""
    entries = [wire.entry(alias, proto) for alias, proto in (inputs or {"x": vector(1.0)}).items()]
    entries += [wire.field(3, name.encode()) for name in output_filter]
    return wire.request(*entries, head=wire.spec(model, spec))


def version(value: int) -> bytes:
    """ModelSpec.version."""
    return wire.field(2, wire.number(1, value) if value else b"")


def label(name: str) -> bytes:
    """ModelSpec.version_label."""
    return wire.field(4, name.encode())


def signature_name(name: str) -> bytes:
    """ModelSpec.signature_name."""
    return wire.field(3, name.encode())


def threads_named(name: str) -> frozenset[str]:
    """The thread ids of this process's threads with this name."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            if (task / "comm").read_text().strip() == name:
                found.add(task.name)
    return frozenset(found)


class Consumer:
    """A mailbox, the thread that drains it, and every answer that came, by the number its call was given.

    `submit` runs on the consumer's thread: a mailbox belongs to one.
    """

    def __init__(self, engine: _fastpath.Engine) -> None:
        self.engine = engine
        self.mailbox = engine.mailbox()
        self.answers: dict[int, list[bytes | TfsError]] = defaultdict(list)
        self.submitted = 0
        self.inlined = 0
        self.tickets: dict[int, _fastpath.Ticket] = {}

    def _answered(self, number: int, answer: bytes | TfsError) -> None:
        self.answers[number].append(answer)

    def submit(self, request: bytes, timeout_ns: int | None = None) -> int:
        """The call's number; its answer may be there already."""
        number = self.submitted
        self.submitted += 1
        try:
            reply = self.engine.predict(self.mailbox, request, timeout_ns, partial(self._answered, number))
        except TfsError as error:
            self.answers[number].append(error)
            return number
        if isinstance(reply, bytes):
            self.inlined += 1
            self.answers[number].append(reply)
        else:
            self.tickets[number] = reply
        return number

    def cancel(self, number: int) -> None:
        self.tickets[number].cancel()

    def drain(self, timeout_s: float = 0.0) -> None:
        """One look at the mailbox."""
        select.select([self.mailbox.fileno()], [], [], timeout_s)
        self.mailbox.drain()

    def wait(self, condition: Callable[[], bool] | None = None, timeout_s: float = 20.0) -> None:
        """Drains until `condition` holds: by default until every call has an answer."""
        deadline = time.monotonic() + timeout_s
        while not (condition() if condition else len(self.answers) >= self.submitted):
            assert time.monotonic() < deadline, f"{len(self.answers)} of {self.submitted} answered"
            self.drain(0.05)

    def answer(self, number: int, timeout_s: float = 20.0) -> bytes | TfsError:
        """The answer of call `number`, waited for."""
        self.wait(lambda: number in self.answers, timeout_s)
        (only,) = self.answers[number]
        return only

    def predict(self, request: bytes, timeout_ns: int | None = None) -> bytes:
        """Submit and wait; raises the error."""
        answer = self.answer(self.submit(request, timeout_ns))
        if isinstance(answer, TfsError):
            raise answer
        return answer

    def check_once(self) -> None:
        """Every call was answered exactly once."""
        self.wait()
        assert {len(answers) for answers in self.answers.values()} <= {1}


def in_threads(count: int, body: Callable[[int], Any]) -> list[Any]:
    """body(0), body(1), … on a thread each; their results; the first exception is raised."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = body(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class Room:
    """Engines with gated models; whatever a test leaves blocked is let go at the end."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.consumers: list[Consumer] = []
        self.sessions: list[FakeSession] = []
        self.servables: list[LoadedServable] = []

    def engine(self, **settings: int) -> Engine:
        self.engines.append(Engine(**settings))
        return self.engines[-1]

    def consumer(self, engine: Engine) -> Consumer:
        self.consumers.append(Consumer(engine))
        return self.consumers[-1]

    def model(self, name: str, gate: int = -1, number: int = 1, **options: bool) -> LoadedServable:
        self.sessions.append(FakeSession(gate=gate))
        self.servables.append(
            fake_servable(name, number, self.sessions[-1], {"serving_default": signature()}, **options)
        )
        return self.servables[-1]

    def stuck(self, name: str, **options: bool) -> tuple[LoadedServable, FakeSession]:
        """A model whose runs wait at the gate."""
        servable = self.model(name, gate=0, **options)
        return servable, self.sessions[-1]

    def close(self) -> None:
        for session in self.sessions:
            session.step(-1)
        for engine in self.engines:
            engine.close()
        for consumer in self.consumers:
            consumer.check_once()
            consumer.mailbox.close()
        for servable in self.servables:
            assert servable.wait_unused(5), f"{servable.name} is still held"
            servable.close()
