"""The batcher's test bench in a test's words: calls of small tensors, a session in Python, a clock in the test's hand.

Owns: `Bench` over `_fastpath._ProbeBatcher` and the tensors' bytes.  Must not know: what a test expects.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from tfs import _fastpath
from tfs.errors import TfsError

FLOAT, INT32, STRING, INT64 = 1, 3, 7, 9
FORMATS = {FLOAT: "f", INT32: "i", INT64: "q"}
NEVER = 2**63 - 1

Tensor = tuple[int, tuple[int, ...], Any]
Session = Callable[[list[Tensor]], list[Tensor]]


def varint(value: int) -> bytes:
    head = bytearray()
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def numbers(values: Sequence[float], shape: tuple[int, ...] | None = None, dtype: int = FLOAT) -> Tensor:
    """An input tensor; without a shape a column of len(values) rows."""
    data = struct.pack(f"<{len(values)}{FORMATS[dtype]}", *values)
    return dtype, shape if shape is not None else (len(values), 1), data


def strings(values: Sequence[bytes], shape: tuple[int, ...] | None = None) -> Tensor:
    """An input tensor of strings, as tensor_content holds them."""
    content = b"".join(varint(len(value)) for value in values) + b"".join(values)
    return STRING, shape if shape is not None else (len(values), 1), content


def values(tensor: Tensor) -> list[Any]:
    """The flat elements of an answered or fed tensor."""
    dtype, _, data = tensor
    if dtype == STRING:
        return list(data)
    return list(struct.unpack(f"<{len(data) // struct.calcsize(FORMATS[dtype])}{FORMATS[dtype]}", data))


def echo(feeds: list[Tensor]) -> list[Tensor]:
    return feeds


class Bench:
    """One batched servable stepped by hand.  `runs` holds the feeds of every run; `now` is in nanoseconds."""

    def __init__(
        self, session: Session = echo, signatures: Any = None, stateless: bool = True, **parameters: Any
    ) -> None:
        _fastpath.fake_runtime()
        self.runs: list[list[Tensor]] = []
        self.now = 0
        self.during: Callable[[], object] = lambda: None  # called within every run
        self._session = session
        traits = 2 if stateless else 0
        self.core = _fastpath._ProbeBatcher(parameters, self._run, signatures, traits)

    def _run(self, feeds: list[Tensor]) -> list[Tensor]:
        self.runs.append(feeds)
        self.during()
        return self._session(feeds)

    def submit(self, *inputs: Tensor | None, **options: Any) -> int:
        call: int = self.core.submit(self.now, list(inputs), **options)
        return call

    def call(self, *numbers_: float, **options: Any) -> int:
        """A call with one column of floats."""
        return self.submit(numbers(numbers_), **options)

    def step(self, run_ns: int = 0) -> list[int] | None:
        ids: list[int] | None = self.core.step(self.now, run_ns)
        return ids

    def finish(self) -> None:
        """Lets time pass until nothing is queued."""
        while self.core.due() != NEVER:
            self.now = max(self.now, self.core.due())
            self.step()

    def answer(self, call: int) -> Any:
        """The one answer of a call: (code, text), or the list of its output tensors."""
        (only,) = self.core.answers[call]
        return only

    def got(self, call: int) -> list[Any]:
        """The flat elements of the first output."""
        answer = self.answer(call)
        assert isinstance(answer, list), answer
        return values(answer[0])

    def sizes(self) -> list[int]:
        """Rows of each run so far."""
        return [feeds[0][1][0] for feeds in self.runs]

    def close(self) -> None:
        """Gives all tickets back: none may be left alive."""
        self.finish()
        for call in self.core.answers:
            self.core.drop(call)
        assert self.core.state()["calls"] == 0
        assert self.core.state()["holds"] == 0
        del self.core


def failing_on(poison: float, code: int = 3) -> Session:
    """A session that fails a batch which holds the value."""

    def run(feeds: list[Tensor]) -> list[Tensor]:
        if poison in values(feeds[0]):
            raise TfsError("bad value", code)
        return feeds

    return run
