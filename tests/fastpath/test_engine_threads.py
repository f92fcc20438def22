"""The engine's threads against each other: answers exactly once under races, runners, limits, publication under load, the end.

Owns: what needs more than one thread or a blocked run.  Sessions are fake and held at a gate, so nothing depends on speed but the two
tests that say so.  The thread sanitizer runs this file.  No TensorFlow.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from engine_support import Consumer, ask, in_threads, signature, threads_named, vector, version
from support import wait_until

from tfs import _fastpath, errors
from tfs._fastpath import BatchThreads, Engine, FakeSession, LoadedServable, fake_servable

pytestmark = pytest.mark.fake_session

MS = 1_000_000
CORES = len(os.sched_getaffinity(0))
SANITIZED = os.environ.get("TFS_TEST_BUILD") in ("asan", "tsan")


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


@pytest.fixture
def room(fake_tensors: None) -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


# --- answered exactly once -------------------------------------------------------------------------------------------------------


def test_cancelled_calls_in_the_queue_lose_nobody(room: Room) -> None:
    """A queued call that was cancelled is in the consumer's list and in the queue at once."""
    servable, session = room.stuck("m")
    engine = room.engine(max_runners=1)
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    first = consumer.submit(ask())
    assert session.wait_started(1)
    queued = [consumer.submit(ask()) for _ in range(9)]
    for number in queued[1::2]:
        consumer.cancel(number)
    consumer.wait(lambda: len(consumer.answers) == len(queued[1::2]))
    assert first not in consumer.answers
    session.step(-1)
    consumer.check_once()
    cancelled = {n for n, (a,) in consumer.answers.items() if isinstance(a, errors.Cancelled)}
    assert cancelled == set(queued[1::2])
    assert session.started == 1 + len(queued) - len(cancelled), "cancelled calls are not run"


def test_expired_calls_in_the_queue_lose_nobody(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine(max_runners=1)
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    consumer.submit(ask())
    assert session.wait_started(1)
    for i in range(60):
        consumer.submit(ask(), None if i % 3 else (1 + i) * MS // 4)
    consumer.wait(lambda: len(consumer.answers) == 20)
    session.step(-1)
    consumer.check_once()
    late = [a for (a,) in consumer.answers.values() if isinstance(a, errors.DeadlineExceeded)]
    assert len(late) == 20
    assert {str(a) for a in late} == {"Timed out waiting for notification"}
    assert session.started == 41


def race(consumer: Consumer, seed: int, calls: int) -> None:
    """Submits calls with deadlines and cancels around the time that they take, checking that each is answered."""
    chooser = random.Random(seed)
    for _ in range(calls):
        timeout = chooser.choice([None, 0, 20_000, 100_000, 300_000, 50 * MS])
        number = consumer.submit(ask(chooser.choice(["fast", "slow", "gated"])), timeout)
        if chooser.random() < 0.3 and consumer.tickets:
            consumer.cancel(number if number in consumer.tickets else max(consumer.tickets))
        if chooser.random() < 0.1:
            consumer.drain()
    consumer.check_once()


def test_each_call_is_answered_once_under_racing_cancels_and_deadlines(room: Room) -> None:
    engine = room.engine()
    slow = FakeSession(spin_ns=100_000)
    room.sessions.append(slow)
    room.servables.append(fake_servable("slow", 1, slow, {"serving_default": signature()}))
    gated, session = room.stuck("gated", may_block=True)
    engine.publish({"fast": {1: room.model("fast")}, "slow": {1: room.servables[0]}, "gated": {1: gated}}, {})
    stop = threading.Event()

    def open_the_gate() -> None:
        while not stop.wait(0.0005):
            session.step(3)
        session.step(-1)

    opener = threading.Thread(target=open_the_gate)
    opener.start()
    threads, calls = 4, 300 if SANITIZED else 1500
    consumers = [room.consumer(engine) for _ in range(threads)]
    try:
        in_threads(threads, lambda seed: race(consumers[seed], seed, calls))
    finally:
        stop.set()
        opener.join()
    assert sum(len(consumer.answers) for consumer in consumers) == threads * calls
    kinds = {type(a) for consumer in consumers for (a,) in consumer.answers.values()}
    assert kinds == {bytes, errors.Cancelled, errors.DeadlineExceeded}


def test_an_answer_before_submit_returns_is_not_delivered_twice(room: Room) -> None:
    """Runners may be done before the submitter has left the engine."""
    engine = room.engine()
    engine.publish({"m": {1: room.model("m", may_block=True)}}, {})
    consumers = [room.consumer(engine) for _ in range(2)]

    def many(index: int) -> None:
        for _ in range(200 if SANITIZED else 2000):
            consumers[index].predict(ask())
        consumers[index].check_once()

    in_threads(2, many)


# --- answered and released are two things ---------------------------------------------------------------------------------------------


def test_a_deadline_during_a_run_answers_at_once_and_releases_later(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine()
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    started = time.monotonic()
    number = consumer.submit(ask(), 50 * MS)
    assert isinstance(consumer.answer(number), errors.DeadlineExceeded)
    assert 0.05 <= time.monotonic() - started < (1.0 if SANITIZED else 0.07)
    engine.publish({}, {})
    assert session.started == 1
    assert not servable.wait_unused(0.02), "the run still holds the version"
    session.step(-1)
    wait_until(lambda: session.finished == 1, 5, "the run")
    engine.close()  # the runner has given the ticket back
    consumer.mailbox.drain()  # ... to its mailbox, which frees it
    assert servable.wait_unused(5)
    consumer.check_once()


def test_a_cancel_during_a_run_answers_at_once(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine()
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    number = consumer.submit(ask())
    assert session.wait_started(1)
    consumer.cancel(number)
    consumer.cancel(number)
    assert isinstance(consumer.answer(number), errors.Cancelled)
    session.step(-1)
    wait_until(lambda: session.finished == 1, 5, "the run")
    assert isinstance(consumer.predict(ask()), bytes)
    consumer.check_once()


# --- limits ----------------------------------------------------------------------------------------------------------------------------


def test_limit_of_queued_calls(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine(max_runners=1, max_queued_calls=5)
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    consumer.submit(ask())
    assert session.wait_started(1)
    for _ in range(5):
        consumer.submit(ask())
    assert engine.counters()["queued_calls"] == 5
    refused = consumer.answer(consumer.submit(ask()))
    assert (type(refused), str(refused)) == (
        errors.Unavailable,
        "too many calls are waiting: --max_queued_calls=5",
    )
    assert len(consumer.answers) == 1, "the others wait on"
    session.step(-1)
    consumer.check_once()
    counted = engine.counters()
    assert (counted["queued_calls"], counted["queued_bytes"]) == (0, 0)
    assert isinstance(consumer.predict(ask()), bytes)


def test_limit_of_queued_bytes(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine(max_runners=1, max_queued_bytes=10_000)
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    consumer.submit(ask())
    assert session.wait_started(1)
    large = ask(inputs={"x": vector(*[1.0] * 2000)})
    consumer.submit(large)
    waiting = engine.counters()["queued_bytes"]
    assert 8_000 <= waiting <= len(large)
    refused = consumer.answer(consumer.submit(large))
    assert (type(refused), str(refused)) == (
        errors.Unavailable,
        "too many request bytes are waiting: --max_queued_bytes=10000",
    )
    assert consumer.submit(ask()) not in consumer.answers, "a small one has room"
    session.step(-1)
    consumer.check_once()
    assert engine.counters()["queued_bytes"] == 0


# --- runners -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", [1, CORES, 4 * CORES, 100])
def test_a_stuck_model_does_not_delay_another(room: Room, blocked: int) -> None:
    """Two calls in a dequeue once kept another model's call waiting for 1.5 s."""
    stuck, _ = room.stuck("stuck", may_block=True)
    engine = room.engine()
    engine.publish({"stuck": {1: stuck}, "good": {1: room.model("good", may_block=True)}}, {})
    consumer = room.consumer(engine)
    for _ in range(blocked):
        consumer.submit(ask("stuck"))
    delays = []
    for _ in range(30):
        started = time.monotonic()
        assert isinstance(consumer.predict(ask("good")), bytes)
        delays.append(time.monotonic() - started)
    delays.sort()
    assert delays[-1] < 1.0, "no call waits for the stuck model"
    if not SANITIZED:  # a busy machine may be late now and then, the growth of the runners may not
        assert delays[len(delays) // 4] < 0.005


def test_a_burst_of_two_models_starves_neither(room: Room) -> None:
    """Stuck and good calls pushed together: the runner that was woken for the good one may take the stuck one."""
    for _ in range(20):
        stuck, session = room.stuck("stuck", may_block=True)
        engine = room.engine()
        engine.publish({"stuck": {1: stuck}, "good": {1: room.model("good", may_block=True)}}, {})
        consumer = room.consumer(engine)
        consumer.predict(ask("good"))  # one idle runner
        for _ in range(CORES + 1):
            consumer.submit(ask("stuck"))
        good = consumer.submit(ask("good"))
        assert isinstance(consumer.answer(good, 2.0), bytes)
        session.step(-1)
        consumer.check_once()
        engine.close()


def test_runners_grow_while_all_are_blocked_and_stop_at_the_caps(room: Room) -> None:
    stuck, session = room.stuck("stuck", may_block=True)
    other, other_session = room.stuck("other", may_block=True)
    engine = room.engine(max_runners=CORES + 4, max_runners_per_model=CORES + 2)
    engine.publish({"stuck": {1: stuck}, "other": {1: other}}, {})
    consumer = room.consumer(engine)
    for _ in range(20):
        consumer.submit(ask("stuck"))
    assert session.wait_started(CORES + 2, 10)
    for _ in range(20):
        consumer.submit(ask("other"))
    assert other_session.wait_started(2, 10)
    assert not session.wait_started(CORES + 3, 0.3), "no more than max_runners_per_model"
    assert other_session.started == 2, "no more than max_runners"
    assert threads_named("tfs-runner") == CORES + 4
    session.step(-1)
    other_session.step(-1)
    consumer.check_once()


def test_surplus_runners_end_when_idle(room: Room) -> None:
    """The time is a constant of runner.pxi: ten seconds."""
    stuck, session = room.stuck("stuck", may_block=True)
    engine = room.engine()
    engine.publish({"stuck": {1: stuck}}, {})
    consumer = room.consumer(engine)
    for _ in range(CORES + 3):
        consumer.submit(ask("stuck"))
    assert session.wait_started(CORES + 3)
    assert threads_named("tfs-runner") == CORES + 3
    session.step(-1)
    consumer.check_once()
    wait_until(lambda: threads_named("tfs-runner") == CORES, 14, "surplus runners to end")
    assert isinstance(consumer.predict(ask("stuck")), bytes)


def test_a_busy_model_does_not_starve_another(room: Room) -> None:
    """One FIFO per model, served in turn: 3,000 queued calls of one model do not stand before another's."""
    busy_session = FakeSession(spin_ns=1 * MS)
    room.sessions.append(busy_session)
    room.servables.append(fake_servable("busy", 1, busy_session, {"serving_default": signature()}))
    engine = room.engine()
    engine.publish({"busy": {1: room.servables[0]}, "good": {1: room.model("good", may_block=True)}}, {})
    consumer = room.consumer(engine)
    numbers = [consumer.submit(ask("busy")) for _ in range(300)]
    assert isinstance(consumer.answer(consumer.submit(ask("good"))), bytes)
    assert busy_session.finished < 200
    for number in numbers:
        if number not in consumer.answers:
            consumer.cancel(number)
    consumer.check_once()


# --- publication ---------------------------------------------------------------------------------------------------------------------------


def test_publish_under_load(room: Room) -> None:
    """Versions come and go under four readers; each is unused soon after it left the map, and closed."""
    engine = room.engine()
    stop = threading.Event()
    swaps = 60 if SANITIZED else 400

    def version_of(number: int) -> LoadedServable:
        return fake_servable("m", number, FakeSession(), {"serving_default": signature()})

    current = version_of(1)
    engine.publish({"m": {1: current}}, {"m": {"stable": 1}})

    def read(seed: int) -> int:
        consumer = Consumer(engine)
        while not stop.is_set():
            consumer.submit(ask(), None if seed else 10_000 * MS)
            consumer.drain()
            assert engine.resolve("m", None, None).version >= 1
            with_number = consumer.submit(ask(spec=version(1)))
            consumer.wait()
            (answer,) = consumer.answers[with_number]
            assert isinstance(answer, (bytes, errors.NotFound))
        consumer.check_once()
        bad = [a for (a,) in consumer.answers.values() if not isinstance(a, (bytes, errors.NotFound))]
        assert bad == []
        consumer.mailbox.drain()
        return consumer.submitted

    def swap(_: int) -> None:
        nonlocal current
        try:
            for number in range(2, swaps):
                old, current = current, version_of(number)
                engine.publish({"m": {number - 1: old, number: current}}, {"m": {"stable": number}})
                engine.publish({"m": {number: current}}, {"m": {"stable": number}})
                assert old.wait_unused(10), "calls in flight end"
                old.close()
        finally:
            stop.set()

    counts = in_threads(4, lambda index: swap(index) if index == 3 else read(index))
    assert min(filter(None, counts)) > 10
    engine.close()
    gc.collect()
    assert current.wait_unused(5)
    current.close()


def test_a_map_that_cannot_be_built_changes_nothing(room: Room) -> None:
    engine = room.engine()
    servable = room.model("m")
    engine.publish({"m": {1: servable}}, {})
    fresh = room.model("n")
    with pytest.raises(OverflowError):
        engine.publish({"a": {1: fresh}, "m": {1: fresh}}, {"m": {"stable": 2**80}})
    assert fresh.wait_unused(0), "its holds were given back"
    assert isinstance(room.consumer(engine).predict(ask()), bytes)


# --- the end -------------------------------------------------------------------------------------------------------------------------------


def test_close_finishes_what_is_queued(room: Room) -> None:
    servable, session = room.stuck("m")
    engine = room.engine(max_runners=2)
    engine.publish({"m": {1: servable}}, {})
    consumer = room.consumer(engine)
    for i in range(50):
        consumer.submit(ask(), None if i % 2 else 60_000 * MS)
    assert session.wait_started(2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    session.step(-1)
    closing.join(10)
    assert not closing.is_alive()
    consumer.wait()
    assert {type(a) for (a,) in consumer.answers.values()} == {bytes}
    consumer.check_once()


USES: list[Callable[[Engine, Consumer], object]] = [
    lambda engine, consumer: engine.predict(consumer.mailbox, ask(), None, print),
    lambda engine, consumer: engine.predict_json(consumer.mailbox, b"{}", "m", None, None, None, print),
    lambda engine, consumer: engine.run(consumer.mailbox, ask(), None, print),
    lambda engine, consumer: engine.run(None, ask(), None, None),
    lambda engine, consumer: engine.publish({}, {}),
    lambda engine, consumer: engine.resolve("m", None, None),
    lambda engine, consumer: engine.counters(),
    lambda engine, consumer: engine.count_request("m", 0, 0, 0, 1),
]


@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
def test_a_closed_engine_refuses(room: Room, use: Callable[[Engine, Consumer], object]) -> None:
    engine = room.engine()
    consumer = room.consumer(engine)
    engine.close()
    engine.close()
    with pytest.raises(errors.Unavailable, match="the server is shutting down"):
        use(engine, consumer)


def test_close_while_others_submit(room: Room) -> None:
    for _ in range(3 if SANITIZED else 15):
        engine = room.engine()
        engine.publish({"m": {1: room.model("m")}, "b": {1: room.model("b", may_block=True)}}, {})
        consumers = [room.consumer(engine) for _ in range(4)]
        going = threading.Barrier(len(consumers))
        in_threads(4, partial(submit_until_closed, engine=engine, consumers=consumers, going=going))


def submit_until_closed(
    index: int, engine: Engine, consumers: list[Consumer], going: threading.Barrier
) -> None:
    """The first consumer's thread closes the engine; the others submit until they are refused."""
    consumer, chooser = consumers[index], random.Random(index)
    going.wait()
    if index == 0:
        for _ in range(20):
            consumer.predict(ask())
        engine.close()
        return
    while not any(isinstance(a, errors.Unavailable) for (a,) in consumer.answers.values()):
        consumer.submit(ask(chooser.choice("mb")), chooser.choice([None, 1 * MS, 10_000 * MS]))
        consumer.drain()
    consumer.check_once()


def test_a_mailbox_may_go_as_soon_as_its_last_answer_came(room: Room) -> None:
    engine = room.engine()
    engine.publish({"m": {1: room.model("m", may_block=True)}}, {})

    def short_lived(index: int) -> None:
        for _ in range(50 if SANITIZED else 400):
            consumer = Consumer(engine)
            request = ask(inputs={"x": vector(float(index))})
            references = sys.getrefcount(request)
            consumer.submit(request)
            while (
                sys.getrefcount(request) > references
            ):  # until the ticket is gone; the eventfd may not be written yet
                consumer.mailbox.drain()
                consumer.tickets.clear()
            consumer.check_once()

    in_threads(3, short_lived)


def test_everything_is_given_back(room: Room) -> None:
    """Debug builds: no live handle is left; other builds: no live tensor (the fixture looks)."""
    before = _fastpath.live_handles()
    engine = Engine()
    servable = fake_servable("m", 1, FakeSession(), {"serving_default": signature()})
    engine.publish({"m": {1: servable}}, {"m": {"stable": 1}})
    consumer = Consumer(engine)
    for i in range(200):
        consumer.submit(ask("m" if i % 3 else "n"), None if i % 2 else 10 * MS)
    consumer.check_once()
    outputs = engine.run(None, ask(), None, None)
    engine.publish({}, {})
    engine.close()
    consumer.tickets.clear()
    consumer.mailbox.close()
    del outputs
    gc.collect()
    assert servable.wait_unused(5)
    servable.close()
    assert _fastpath.live_handles() == before


def test_a_servable_counts_for_the_engine_that_serves_it(room: Room) -> None:
    """Its counters belong to an engine: a second one must not count into those of the first, which are gone."""
    servable = room.model("m")
    for runs in (1, 2):
        engine = room.engine()
        engine.publish({"m": {1: servable}}, None)
        for _ in range(runs):
            engine.run(None, ask(), None, None, _fastpath.METHOD_PREDICT)
        assert engine.counters()["requests"] == {
            ("m", _fastpath.METHOD_PREDICT, _fastpath.ENTRY_GRPC, 0): runs
        }
        engine.publish({}, {})
        engine.close()


def test_several_threads_may_close_a_servable(room: Room) -> None:
    """Each returns when it is freed: none waits on a lock that another has freed."""
    servable, session = room.stuck("m")
    engine = room.engine()
    engine.publish({"m": {1: servable}}, None)
    caller = threading.Thread(target=engine.run, args=(None, ask(), None, None))
    caller.start()
    assert session.wait_started(1)
    engine.publish({}, {})
    closers = [threading.Thread(target=servable.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    assert all(closer.is_alive() for closer in closers)  # the call holds it
    session.step(-1)
    for thread in (caller, *closers):
        thread.join(20)
        assert not thread.is_alive()
    with pytest.raises(errors.FailedPrecondition, match="version 1 of model m is closed"):
        servable.is_stateless("serving_default")
    with pytest.raises(errors.FailedPrecondition, match="version 1 of model m is closed"):
        servable.enable_batching(BatchThreads(0))
