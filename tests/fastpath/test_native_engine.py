"""The native gRPC transport over the real engine and a fake session: answers, deadlines, cancellation, inline or runner, the end.

TensorFlow is not loaded; the thread sanitizer runs this file too (`make tsan`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import h2.exceptions
import pytest
from wiretools import entry, field, floats, number, request, spec, tensor

from tfs import _fastpath, errors

if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

import http1_support
from engine_support import threads_named
from native_support import REST, Peer, RestPeer, message, request_headers, wait_for

pytestmark = pytest.mark.fake_session

FLOAT = 1
CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND = "1", "4", "5"
PROCESSORS = len(os.sched_getaffinity(0))
INLINE_AFTER = 10  # runs until the engine believes a run time


def signature_def() -> bytes:
    """One float input `x` and one output `y`."""
    of_any_rank = number(2, FLOAT) + field(3, number(3, 1))
    x, y = (field(1, name) + of_any_rank for name in (b"x:0", b"out:0"))
    method = field(3, b"tensorflow/serving/predict")
    return field(1, field(1, b"x") + field(2, x)) + field(2, field(1, b"y") + field(2, y)) + method


def predict(model: str = "m", size: int = 3) -> bytes:
    """A PredictRequest of `size` ones, as a gRPC message."""
    return message(
        request(entry("x", tensor(FLOAT, [size], field(4, floats(*[1.0] * size)))), head=spec(model))
    )


class Served:
    """Fake models by name behind one native server."""

    def __init__(self, sessions: dict[str, _fastpath.FakeSession], **engine: Any) -> None:
        _fastpath.fake_runtime()
        self.sessions = sessions
        self.engine = _fastpath.Engine(**engine)
        self.servables = {
            name: _fastpath.fake_servable(name, 1, session, {"serving_default": signature_def()})
            for name, session in sessions.items()
        }
        self.engine.publish({name: {1: servable} for name, servable in self.servables.items()}, None)
        self.server = _fastpath.NativeServer(
            self.engine,
            addresses=["127.0.0.1:0"],
            io_threads=1,
            cold=[],
            max_message_bytes=1 << 26,
            byte_budget=1 << 26,
            max_connections=100,
            arguments={},
            processors=PROCESSORS,
            start=False,
        )
        rest = socket.create_server(("127.0.0.1", 0))
        rest.setblocking(False)
        self.rest_port: int = rest.getsockname()[1]
        self.server.listen_rest(rest, **REST)
        self.server.start()

    def close(self) -> None:
        self.server.close()
        for session in self.sessions.values():
            session.step(-1)
        self.engine.publish({}, None)
        for servable in self.servables.values():
            servable.close()
        self.engine.close()
        assert self.server.stats()["request_bytes"] == 0


@contextlib.contextmanager
def served(**sessions: _fastpath.FakeSession) -> Iterator[Served]:
    made = Served(sessions)
    try:
        yield made
    finally:
        made.close()


def ask(peer: Peer, body: bytes, **headers: str) -> dict[str, str]:
    """One call; its headers and trailers."""
    stream = peer.open(body, request_headers(**headers))
    peer.until(lambda: stream in peer.ended or stream in peer.resets)
    return peer.headers.get(stream, {})


def ask_many(peer: Peer, body: bytes, count: int) -> None:
    """`count` calls in one write."""
    streams = []
    for _ in range(count):
        streams.append(stream := peer.h2.get_next_available_stream_id())
        peer.h2.send_headers(stream, request_headers())
        peer.h2.send_data(stream, body, end_stream=True)
    peer.flush()
    peer.until(lambda: peer.ended.issuperset(streams))
    assert {peer.headers[stream]["grpc-status"] for stream in streams} == {"0"}


def test_answers_are_predict_responses() -> None:
    from tfs import messages

    with served(m=_fastpath.FakeSession()) as one, Peer(one.server.ports[0]) as peer:
        for size in (1, 3, 5000, 100_000):
            sent = predict(size=size)
            stream = peer.open(sent) if len(sent) < 60_000 else upload(peer, sent)
            peer.until(lambda stream=stream: stream in peer.ended)
            headers, data = peer.headers[stream], peer.data[stream]
            assert headers["grpc-status"] == "0"
            response = messages.PredictResponse.FromString(data[5:])
            assert list(response.outputs["y"].float_val) == [1.0] * size
            assert response.model_spec.name == "m"


def upload(peer: Peer, body: bytes) -> int:
    """A request as fast as the windows allow."""
    stream = peer.open(None, end=False)
    while body:
        room = min(peer.h2.local_flow_control_window(stream), 16384)
        if room == 0:
            peer.read()
            continue
        peer.h2.send_data(stream, body[:room])
        body = body[room:]
        peer.flush()
    peer.h2.end_stream(stream)
    peer.flush()
    return stream


def test_errors_of_the_engine() -> None:
    with served(m=_fastpath.FakeSession()) as one, Peer(one.server.ports[0]) as peer:
        assert ask(peer, predict("nobody"))["grpc-status"] == NOT_FOUND
        assert ask(peer, message(b"\xff\xff"))["grpc-status"] == "3"
        assert ask(peer, predict())["grpc-status"] == "0"


def test_a_deadline_is_kept_while_the_model_is_stuck() -> None:
    with (
        served(m=_fastpath.FakeSession(gate=0), other=_fastpath.FakeSession()) as one,
        Peer(one.server.ports[0]) as peer,
    ):
        began = time.monotonic()
        headers = ask(peer, predict(), grpc_timeout="50m")
        assert headers["grpc-status"] == DEADLINE_EXCEEDED
        assert 0.045 < time.monotonic() - began < 5
        assert ask(peer, predict("other"))["grpc-status"] == "0"
        assert one.server.stats()["request_bytes"] > 0  # the run still has it
        one.sessions["m"].step(-1)
        wait_for(lambda: one.server.stats()["request_bytes"] == 0)


def test_a_reset_while_the_model_runs() -> None:
    session = _fastpath.FakeSession(gate=0)
    with served(m=session) as one, Peer(one.server.ports[0]) as peer:
        stream = peer.open(predict())
        assert session.wait_started(1)
        peer.h2.reset_stream(stream, 8)
        peer.flush()
        wait_for(lambda: one.server.stats()["resets"] == 1)
        session.step(-1)
        assert ask(peer, predict())["grpc-status"] == "0"


def test_the_server_may_close_while_the_model_runs() -> None:
    session = _fastpath.FakeSession(gate=0)
    with served(m=session) as one, Peer(one.server.ports[0]) as peer:
        for _ in range(5):
            peer.open(predict())
        assert session.wait_started(1)
        one.server.close()
        peer.until_closed()
        session.step(-1)
        wait_for(lambda: one.server.stats()["request_bytes"] == 0)


def test_short_runs_stay_on_the_io_thread() -> None:
    with served(m=_fastpath.FakeSession()) as one, Peer(one.server.ports[0]) as peer:
        for _ in range(INLINE_AFTER):
            ask(peer, predict())
        before = one.server.stats()
        for _ in range(50):
            ask(peer, predict())
        after = one.server.stats()
        assert after["inlined"] - before["inlined"] >= 45


def test_a_machine_that_stretched_some_runs_is_forgiven() -> None:
    """The p99 falls slowly; what tells the model from the machine is the mean."""
    session = _fastpath.FakeSession(spin_ns=800_000)
    with served(m=session) as one, Peer(one.server.ports[0]) as peer:
        for _ in range(60):
            ask(peer, predict())
        session.spin(0)
        for _ in range(100):
            ask(peer, predict())
        before = one.server.stats()
        for _ in range(50):
            ask(peer, predict())
        assert one.server.stats()["inlined"] - before["inlined"] >= 45


@pytest.mark.parametrize("encoding", [b"", b"Accept-Encoding: gzip"])
def test_long_rest_answers_are_printed_by_runners(encoding: bytes) -> None:
    """Packed ones too: their length on the wire says nothing of the work."""
    more = [encoding] if encoding else []
    short = http1_support.post(b'{"inputs":[1]}', *more)
    long = http1_support.post(b'{"inputs":[%s]}' % b",".join([b"1"] * 30_000), *more)
    with served(m=_fastpath.FakeSession()) as one, RestPeer(one.rest_port) as peer:
        for request_bytes in [short] * INLINE_AFTER + [long] * INLINE_AFTER:
            assert peer.answer(request_bytes).status == 200
        for request_bytes, inlined in (
            (long, 0),
            (short, 19),
        ):  # the first short one still follows a long one
            before = one.server.stats()["inlined"]
            for _ in range(20):
                assert peer.answer(request_bytes).status == 200
            assert one.server.stats()["inlined"] - before <= inlined
        assert one.server.stats()["inlined"] - before >= inlined - 2


def test_one_connection_gives_its_long_calls_to_runners() -> None:
    """64 ready calls of a model that takes 200 us: a few here (2 ms worth of them), the rest on every core."""
    with served(m=_fastpath.FakeSession(spin_ns=200_000)) as one, Peer(one.server.ports[0]) as peer:
        for _ in range(INLINE_AFTER):
            ask(peer, predict())
        before = one.server.stats()
        for _ in range(10):
            ask_many(peer, predict(), 64)
        after = one.server.stats()
        assert after["handed_over"] - before["handed_over"] > 0.7 * 640


def test_runners_do_not_inherit_what_lets_io_threads_go_first() -> None:
    """The I/O thread starts the runner; only itself may go first."""
    with served(m=_fastpath.FakeSession(gate=0)) as one, Peer(one.server.ports[0]) as peer:
        peer.open(predict())
        assert one.sessions["m"].wait_started(1)
        (io,), (runner, *_) = (threads_named(name) for name in ("tfs-io", "tfs-runner"))
        assert os.sched_getscheduler(int(io)) == os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, int(io)) in {ours() - 3, ours()}  # as the process may
        assert os.getpriority(os.PRIO_PROCESS, int(runner)) == ours()


def ours() -> int:
    """The niceness of this thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


KEPT_NS = 300_000  # too long to be run at once, short enough to be kept


@contextlib.contextmanager
def all_processors_taken() -> Iterator[tuple[Served, Peer]]:
    """Runs of `m` are known to take KEPT_NS; as many runners as there are processors are stuck."""
    with (
        served(m=_fastpath.FakeSession(spin_ns=KEPT_NS), stuck=_fastpath.FakeSession(gate=0)) as one,
        Peer(one.server.ports[0]) as peer,
    ):
        for _ in range(INLINE_AFTER):
            ask(peer, predict())
        for _ in range(PROCESSORS):
            peer.open(predict("stuck"))
        assert one.sessions["stuck"].wait_started(PROCESSORS)
        yield one, peer


def test_calls_are_kept_while_no_processor_is_free() -> None:
    with all_processors_taken() as (one, peer):
        before = one.server.stats()
        for _ in range(10):
            assert ask(peer, predict())["grpc-status"] == "0"
        after = one.server.stats()
        assert after["kept"] - before["kept"] >= 8  # a preempted run may have raised the estimate for a while
        assert after["handed_over"] - before["handed_over"] <= 2


def test_a_thread_keeps_no_more_than_its_room() -> None:
    with all_processors_taken() as (one, peer):
        before = one.server.stats()
        streams = [peer.open(predict()) for _ in range(3)]
        ask_many(peer, predict(), 64)
        peer.until(lambda: peer.ended.issuperset(streams))
        assert one.server.stats()["kept"] > before["kept"]
        assert (
            one.server.stats()["handed_over"] > before["handed_over"]
        )  # 64 x 0.3 ms is more than it may make them wait


def test_kept_calls_end_with_their_clients_and_their_deadlines() -> None:
    with all_processors_taken() as (one, peer):
        for _ in range(20):
            streams = [peer.h2.get_next_available_stream_id()]
            for stream in range(streams[0], streams[0] + 16, 2):
                peer.h2.send_headers(stream, request_headers(grpc_timeout="1m" if stream % 4 == 1 else "10S"))
                peer.h2.send_data(stream, predict(), end_stream=True)
                streams.append(stream)
            peer.flush()
            for stream in streams[1::3]:
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    peer.h2.reset_stream(stream, 8)
            peer.flush()
        assert ask(peer, predict())["grpc-status"] == "0"
        one.sessions["stuck"].step(-1)
        wait_for(lambda: one.server.stats()["request_bytes"] == 0)


def test_the_server_may_close_while_calls_are_kept() -> None:
    with all_processors_taken() as (one, peer):
        for _ in range(30):
            peer.open(predict())
        one.server.close()
        one.sessions["stuck"].step(-1)
        wait_for(lambda: one.server.stats()["request_bytes"] == 0)


def test_long_runs_never_happen_on_the_io_thread() -> None:
    with served(m=_fastpath.FakeSession(spin_ns=5_000_000)) as one, Peer(one.server.ports[0]) as peer:
        for _ in range(INLINE_AFTER + 10):
            ask(peer, predict())
        assert one.server.stats()["inlined"] == 0


def test_many_connections_resets_and_models() -> None:
    """Everything at once, for the sanitizers."""
    slow, fast = _fastpath.FakeSession(spin_ns=300_000), _fastpath.FakeSession()

    def work(index: int) -> None:
        with Peer(one.server.ports[0]) as peer:
            for turn in range(20):
                ask_many(peer, predict("slow" if (index + turn) % 2 else "fast"), 8)
                stream = peer.open(predict("slow"))
                peer.h2.reset_stream(stream, 8)
                peer.flush()
                late = peer.open(predict("slow"), request_headers(grpc_timeout="1m"))
                peer.until(lambda late=late: late in peer.ended)
        finished.append(index)

    finished: list[int] = []
    with served(slow=slow, fast=fast) as one:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_for(lambda: one.server.stats()["request_bytes"] == 0)
    assert sorted(finished) == [0, 1, 2, 3]


def test_a_closed_engine_is_not_served() -> None:
    _fastpath.fake_runtime()
    engine = _fastpath.Engine()
    engine.close()
    with pytest.raises(errors.Unavailable, match="the server is shutting down"):
        _fastpath.NativeServer(
            engine,
            addresses=["127.0.0.1:0"],
            io_threads=1,
            cold=[],
            max_message_bytes=1 << 20,
            byte_budget=1 << 30,
            max_connections=1,
            arguments={},
        )
