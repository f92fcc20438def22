"""The engine's threads against each other: answers exactly once under races, runners, limits.

Owns: what needs more than one thread or a blocked run.  Sessions are fake and held at a gate, so nothing depends on speed but the two
tests that say so.  The thread sanitizer runs this file.  Publication under load and the end are in test_engine_end.py.  No TensorFlow.
"""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
from engine_support import (
    MS,
    SANITIZED,
    Consumer,
    Room,
    ask,
    in_threads,
    signature,
    threads_named,
    vector,
)
from support import wait_until

from tfs import errors
from tfs._fastpath import FakeSession, fake_servable

pytestmark = pytest.mark.fake_session

CORES = len(os.sched_getaffinity(0))


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
    assert len(threads_named("tfs-runner")) == CORES + 4
    session.step(-1)
    other_session.step(-1)
    consumer.check_once()


def test_surplus_runners_end_when_runs_end_again(room: Room) -> None:
    stuck, session = room.stuck("stuck", may_block=True)
    engine = room.engine()
    engine.publish({"stuck": {1: stuck}}, {})
    consumer = room.consumer(engine)
    for _ in range(CORES + 3):
        consumer.submit(ask("stuck"))
    assert session.wait_started(CORES + 3)
    assert len(threads_named("tfs-runner")) == CORES + 3
    session.step(-1)
    consumer.check_once()
    wait_until(lambda: len(threads_named("tfs-runner")) == CORES, 10, "surplus runners to end")
    assert isinstance(consumer.predict(ask("stuck")), bytes)


def test_a_surplus_runner_stays_while_the_others_are_stuck(room: Room) -> None:
    stuck, session = room.stuck("stuck", may_block=True)
    quick = room.model("quick", may_block=True)
    engine = room.engine()
    engine.publish({"stuck": {1: stuck}, "quick": {1: quick}}, {})
    consumer = room.consumer(engine)
    for _ in range(CORES):
        consumer.submit(ask("stuck"))
    assert session.wait_started(CORES)
    taken_as_blocked = time.monotonic() + 0.02  # RUN_LONG_NS is 10 ms
    while time.monotonic() < taken_as_blocked:
        assert isinstance(consumer.predict(ask("quick")), bytes)
    consumer.predict(ask("quick"))
    runners = {threads_named("tfs-runner") for _ in range(50) if consumer.predict(ask("quick"))}
    assert len(runners) == 1, "the same threads serve all of them"
    session.step(-1)
    consumer.check_once()


def test_a_surplus_runner_leaves_no_call_behind(room: Room) -> None:
    """A model at its limit gets room by the end of a run whose runner is one too many; the others sleep already."""
    engine = room.engine(max_runners_per_model=1)
    names = [f"m{number}" for number in range(CORES + 1)]
    models = {name: room.stuck(name, may_block=True) for name in names}
    engine.publish({name: {1: servable} for name, (servable, _) in models.items()}, {})
    consumer = room.consumer(engine)
    numbers = {name: consumer.submit(ask(name)) for name in names}
    behind = consumer.submit(ask("m0"))
    for _, session in models.values():
        assert session.wait_started(1)
    long_run = time.monotonic() + 0.02  # RUN_LONG_NS is 10 ms
    wait_until(lambda: time.monotonic() > long_run, 10, "runs to count as long")
    for name in names[1:]:
        models[name][1].step(-1)
        consumer.answer(numbers[name])
    assert len(threads_named("tfs-runner")) == CORES + 1
    models["m0"][1].step(-1)
    assert isinstance(consumer.answer(behind), bytes)


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
