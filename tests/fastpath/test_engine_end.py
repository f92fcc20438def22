"""The engine's serving map swapped under load, and the end of engines and mailboxes while others use them.

Owns: what appears and goes while threads submit.  Sessions are fake.  The thread sanitizer runs this file.  No TensorFlow.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Callable
from functools import partial

import pytest
from engine_support import (
    MS,
    SANITIZED,
    Consumer,
    Room,
    ask,
    in_threads,
    signature,
    vector,
    version,
)

from tfs import _fastpath, errors
from tfs._fastpath import BatchThreads, Engine, FakeSession, LoadedServable, fake_servable

pytestmark = pytest.mark.fake_session


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
