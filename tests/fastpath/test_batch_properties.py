"""Random arrivals, sizes, deadlines, cancelled calls and failures: what holds of the batcher whatever comes.

1. Each call is answered exactly once, and its ticket comes back.
2. A successful answer holds the call's own rows, in order.
3. A run has no more rows than a batch may have, rounded up to an allowed size.
4. Calls of one queue run in the order they came.
5. Every queue with work is served within one round.
6. A call fails only by its own doing: its value, its size, its deadline, its cancellation, or a full queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from batch_support import Bench, Tensor, numbers, values
from hypothesis import given, settings
from hypothesis import strategies as st

from tfs import _fastpath, errors
from tfs.errors import TfsError

POISON = -1.0
WIDTHS = (1, 2, 3)
US = 1000


@dataclass
class Sent:
    width: int
    rows: list[float]
    poisoned: bool
    deadline: int | None
    left: bool = False  # cancelled, or expired by the timer
    started: bool = False


@dataclass
class World:
    """The batcher, and what a plain list says should be in it."""

    bench: Bench
    limit: int
    most: int
    allowed: tuple[int, ...]
    fair: bool
    calls: dict[int, Sent] = field(default_factory=dict)
    last_of: dict[int, int] = field(default_factory=dict)
    passed_over: dict[int, int] = field(default_factory=dict)
    counter: float = 0.0

    def send(self, width: int, rows: int, poisoned: bool, patience: int | None) -> None:
        flat = []
        for _ in range(rows * width):
            self.counter += 1
            flat.append(self.counter)
        if poisoned and flat:
            flat[len(flat) // 2] = POISON
        deadline = None if patience is None else self.bench.now + patience
        call = self.bench.submit(numbers(flat, (rows, width)), deadline=deadline)
        self.calls[call] = Sent(width, flat, POISON in flat, deadline)

    def waiting(self) -> list[int]:
        return [c for c, sent in self.calls.items() if not sent.started and not self.bench.core.answers[c]]

    def pass_time(self, amount: int) -> None:
        """The engine's timer runs beside the batcher: who is past its deadline is answered at once."""
        self.bench.now += amount
        for call in self.waiting():
            deadline = self.calls[call].deadline
            if deadline is not None and deadline <= self.bench.now:
                self.calls[call].left = True
                self.bench.core.expire(call)

    def cancel(self, which: int) -> None:
        waiting = self.waiting()
        if waiting:
            call = waiting[which % len(waiting)]
            self.calls[call].left = True
            self.bench.core.cancel(call)

    def step(self, run_ns: int) -> None:
        before = {self.calls[c].width for c in self.waiting()}
        runs = len(self.bench.runs)
        ids = self.bench.step(run_ns)
        for feeds in self.bench.runs[runs:]:
            self.check_size(feeds)
        served = {self.calls[c].width for c in ids or ()}
        assert len(served) <= 1
        for call in ids or ():
            assert not self.calls[call].left, "a call that left was run"
            assert self.last_of.get(self.calls[call].width, 0) <= call, "out of order"
            self.last_of[self.calls[call].width] = call
            self.calls[call].started = True
        for width in WIDTHS if self.fair else ():
            self.passed_over[width] = (
                0 if width in served or width not in before else self.passed_over.get(width, 0) + 1
            )
            assert self.passed_over[width] <= 2 * len(WIDTHS), "starved"

    def check_size(self, feeds: list[Tensor]) -> None:
        rows = feeds[0][1][0]
        assert rows <= max(self.limit, *self.allowed, 0)
        assert not self.allowed or rows in self.allowed or rows == 0

    def check_answers(self) -> None:
        for call, sent in self.calls.items():
            answer = self.bench.answer(call)
            if isinstance(answer, list):
                assert values(answer[0]) == sent.rows
                assert not sent.poisoned
            else:
                self.check_error(answer, sent)

    def check_error(self, answer: tuple[int, str], sent: Sent) -> None:
        code, text = answer
        if code == errors.Code.DEADLINE_EXCEEDED:
            assert sent.deadline is not None
        elif code == errors.Code.CANCELLED:
            assert sent.left
        elif code == errors.Code.UNAVAILABLE:
            assert "full" in text
        elif "Task size" in text:
            assert len(sent.rows) // sent.width > self.most
        else:
            assert (code, text) == (errors.Code.OUT_OF_RANGE, "poison")
            assert sent.poisoned


def session(feeds: list[Tensor]) -> list[Tensor]:
    if POISON in values(feeds[0]):
        raise TfsError("poison", errors.Code.OUT_OF_RANGE)
    return feeds


OPERATIONS = st.one_of(
    st.tuples(
        st.just("send"),
        st.sampled_from(WIDTHS),
        st.integers(0, 9),
        st.integers(0, 7).map(lambda n: n == 0),
        st.one_of(st.none(), st.integers(1, 400).map(lambda n: n * US)),
    ),
    st.tuples(st.just("send"), st.just(1), st.just(1), st.just(False), st.none()),
    st.tuples(st.just("pass_time"), st.integers(1, 120 * US)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("step"), st.sampled_from([1, 50 * US])),
)


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    most = draw(st.sampled_from([1, 4, 8]))
    chosen: dict[str, Any] = {
        "max_batch_size": most,
        "batch_timeout_micros": draw(st.sampled_from([0, 100])),
        "max_enqueued_batches": draw(st.sampled_from([1, 3, 50])),
    }
    if draw(st.booleans()):
        chosen["allowed_batch_sizes"] = (2, most) if most > 2 else (most,)
    if draw(st.booleans()):
        chosen["enable_large_batch_splitting"] = True
        chosen["max_execution_batch_size"] = draw(st.sampled_from([n for n in (1, 2, 4) if n <= most]))
    return chosen


@pytest.fixture(autouse=True)
def _runtime() -> None:
    _fastpath.fake_runtime()


@settings(max_examples=400)
@given(parameters(), st.lists(OPERATIONS, max_size=60))
def test_whatever_comes(chosen: dict[str, Any], operations: list[tuple[Any, ...]]) -> None:
    alive = _fastpath.fake_counts()["alive"]
    bench = Bench(session, **chosen)
    limit = chosen.get("max_execution_batch_size", chosen["max_batch_size"])
    fair = chosen["batch_timeout_micros"] == 0
    world = World(bench, limit, chosen["max_batch_size"], chosen.get("allowed_batch_sizes", ()), fair)
    for name, *arguments in operations:
        getattr(world, name)(*arguments)
    while bench.core.due() != 2**63 - 1:
        bench.now = max(bench.now, bench.core.due())
        world.step(1)
    world.check_answers()
    bench.close()
    assert _fastpath.fake_counts()["alive"] == alive
