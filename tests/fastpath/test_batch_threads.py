"""The batcher with its threads: answers race, pools are shared, time is real, TensorFlow is not there.

The thread sanitizer runs this file too (`make tsan`).
"""

from __future__ import annotations

import statistics
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from batch_support import FLOAT
from wiretools import entry, field, floats, number, request, tensor

from tfs import _fastpath, errors

pytestmark = pytest.mark.fake_session
CALLS = 8_000
DEADLINE_S = 30


@pytest.fixture
def threads(fake_tensors: None) -> Iterator[_fastpath.BatchThreads]:
    made = _fastpath.BatchThreads(3, "batch_test")
    yield made
    made.close()


@pytest.mark.parametrize("producers", [1, 8])
@pytest.mark.parametrize(
    "parameters",
    [
        {"max_batch_size": 32},
        {"max_batch_size": 16, "batch_timeout_micros": 200},
        {"max_batch_size": 8, "allowed_batch_sizes": (4, 8), "batch_timeout_micros": 50},
        {"max_batch_size": 1},
    ],
    ids=["at once", "timeout", "padded", "alone"],
)
@pytest.mark.parametrize("cancel_every", [0, 3])
def test_everybody_gets_their_own(
    threads: _fastpath.BatchThreads, parameters: dict[str, int], producers: int, cancel_every: int
) -> None:
    counted = _fastpath._bench_batcher(
        threads, {**parameters, "max_enqueued_batches": 1000}, CALLS, producers, 64, 0, cancel_every
    )
    assert counted["finished"] == CALLS
    assert counted["wrong"] == 0
    assert cancel_every or counted["cancelled"] == 0
    assert counted["runs"] <= CALLS


def test_many_servables_share_the_threads(threads: _fastpath.BatchThreads) -> None:
    done: list[dict[str, int]] = []

    def one(timeout_us: int) -> None:
        parameters = {"max_batch_size": 8, "batch_timeout_micros": timeout_us, "max_enqueued_batches": 1000}
        done.append(_fastpath._bench_batcher(threads, parameters, 2_000, 2, 16, 20, 5))

    workers = [threading.Thread(target=one, args=(100 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        threads.counters()
        workers[0].join(0.01)
    for worker in workers:
        worker.join()
    assert [d["wrong"] for d in done] == [0] * 4
    assert sum(d["finished"] for d in done) == 8_000
    counted = threads.counters()
    assert counted["batches"] == sum(d["runs"] for d in done)


# --- through the engine ---------------------------------------------------------------------------------------------------------


def signature_def() -> bytes:
    """One float input `x` and one output `y`."""
    of_any_rank = number(2, FLOAT) + field(3, number(3, 1))
    x, y = (field(1, name) + of_any_rank for name in (b"x:0", b"out:0"))
    return (
        field(1, field(1, b"x") + field(2, x))
        + field(2, field(1, b"y") + field(2, y))
        + field(3, b"tensorflow/serving/predict")
    )


def request_of(value: float) -> bytes:
    return request(entry("x", tensor(FLOAT, [1], field(4, floats(value)))))


class Served:
    """An engine with one batched fake model."""

    def __init__(
        self, threads: _fastpath.BatchThreads, session: _fastpath.FakeSession, **parameters: int
    ) -> None:
        self.session = session
        self.engine = _fastpath.Engine(batch_threads=threads)
        self.servable = _fastpath.fake_servable("m", 1, session, {"serving_default": signature_def()})
        self.servable.enable_batching(threads, **parameters)
        self.engine.publish({"m": {1: self.servable}}, None)

    def call(self, value: float, timeout_s: float | None = None) -> float:
        """Blocks; the answer, or raises TfsError."""
        timeout_ns = None if timeout_s is None else int(timeout_s * 1e9)
        outputs = self.engine.run(None, request_of(value), timeout_ns, None)
        answer: float = struct.unpack("<f", outputs.numbers("y"))[0]
        return answer

    def close(self) -> None:
        self.engine.publish({}, None)
        self.servable.close()
        self.engine.close()


@pytest.fixture
def session() -> _fastpath.FakeSession:
    return _fastpath.FakeSession()


def test_calls_of_many_threads_meet(threads: _fastpath.BatchThreads, session: _fastpath.FakeSession) -> None:
    served = Served(threads, session, max_batch_size=8, batch_timeout_micros=10_000_000)
    got: list[float] = []
    callers = [threading.Thread(target=lambda v=v: got.append(served.call(v))) for v in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE_S)
    assert sorted(got) == list(range(8))
    assert session.started == 1
    assert session.rows_seen == 8
    series = served.engine.counters()["batching"]["m", "serving_default"]
    assert (series["calls"], series["queued_calls"]) == (8, 0)
    served.close()


def test_a_deadline_in_the_queue_is_kept_and_the_call_is_never_run(
    threads: _fastpath.BatchThreads, session: _fastpath.FakeSession
) -> None:
    served = Served(threads, session, max_batch_size=8, batch_timeout_micros=60_000_000)
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        served.call(1.0, timeout_s=0.05)
    assert 0.05 <= time.monotonic() - started < DEADLINE_S
    assert session.started == 0
    threads.close()  # runs what is queued: nothing that anybody waits for
    assert session.started == 0
    served.close()


def test_closing_runs_what_is_queued(threads: _fastpath.BatchThreads, session: _fastpath.FakeSession) -> None:
    served = Served(threads, session, max_batch_size=8, batch_timeout_micros=60_000_000)
    got: list[float] = []
    caller = threading.Thread(target=lambda: got.append(served.call(5.0)))
    caller.start()
    while served.engine.counters()["queued_calls"] == 0 and caller.is_alive():
        caller.join(0.001)
    threads.close()
    caller.join(DEADLINE_S)
    assert got == [5.0]
    served.close()


def test_one_stuck_model_does_not_hold_up_another(threads: _fastpath.BatchThreads) -> None:
    stuck = _fastpath.FakeSession(gate=0)
    blocked = Served(threads, stuck)
    callers = [threading.Thread(target=blocked.call, args=(float(i),)) for i in range(2)]
    callers[0].start()
    assert stuck.wait_started(1)
    callers[1].start()
    assert stuck.wait_started(2)
    free = Served(threads, _fastpath.FakeSession())
    assert free.call(3.0, timeout_s=DEADLINE_S) == 3.0
    stuck.step(-1)
    for caller in callers:
        caller.join(DEADLINE_S)
    blocked.close()
    free.close()


def test_an_open_batch_starts_on_time(
    threads: _fastpath.BatchThreads, session: _fastpath.FakeSession
) -> None:
    """One client waits for the batch timeout, and hardly longer: threads wake at the time, not at the next tick.  Once it is known to
    be alone it does not wait at all."""
    served = Served(threads, session, max_batch_size=8, batch_timeout_micros=3_000)
    taken = []
    for i in range(48):
        started = time.perf_counter()
        served.call(float(i))
        taken.append(time.perf_counter() - started)
    assert min(taken[:16]) >= 0.003
    assert statistics.median(taken[:16]) < 0.004
    assert min(taken[16:]) < 0.003
    served.close()


def test_settings_change_under_load(threads: _fastpath.BatchThreads, session: _fastpath.FakeSession) -> None:
    served = Served(threads, session, max_batch_size=8)
    stop = threading.Event()

    def load() -> None:
        value = 0.0
        while not stop.is_set():
            value += 1
            assert served.call(value) == value

    callers = [threading.Thread(target=load) for _ in range(2)]
    for caller in callers:
        caller.start()
    for i in range(200):
        served.servable.update_batching(
            max_batch_size=4 + 4 * (i % 2),
            allowed_batch_sizes=(2, 4 + 4 * (i % 2)),
            pad_variable_length_inputs=bool(i % 3),
        )
        assert served.call(float(i)) == float(i)
    stop.set()
    for caller in callers:
        caller.join(DEADLINE_S)
    assert not any(caller.is_alive() for caller in callers)
    served.close()
