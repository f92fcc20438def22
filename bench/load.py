"""The open-loop load generator: calls start when they are due, not when the last one was answered, so that queueing shows.

    python -m bench.load --face=grpc --port=8500 --path=/pkg.Service/Method --body=FILE --size=BYTES --rate=1000 --seconds=5

Runs in its own process, on one thread, without an event loop library: arrivals are a Poisson process, sockets and the clock are
waited on by select().  It shares the cores with the server, so it must be cheap: the kernel is asked to wake it on time, so nothing is
spun, and the frames of a call are made once and copied with another stream number.  Latency counts from the moment a call was
due, so what the generator itself is late is in it too; `lag_p99_us` says how much that was.  gRPC is spoken as bare HTTP/2
frames (no header compression), REST as HTTP/1.1 with one call at a time per connection.
Owns: the two wire dialects as far as a load needs them.  Must not know: workloads, targets.

Prints one JSON object: {sent, ok, good, wrong, lost, per_s, good_per_s, mean_us, p50_us, p90_us, p99_us, p999_us, max_us,
lag_p99_us, generator_cores}.  `good` are the right answers that came within `timeout_ms` of their start: the others no client
would have taken.  Rates are over the time from the first call due to the last answer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

PR_SET_TIMERSLACK = 29  # from linux/prctl.h
FIRST = -15  # niceness
GRACE_S = 2.0  # how long answers are waited for after the last arrival
RECEIVE = 1 << 18
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
SETTINGS_HEADER_TABLE_SIZE, SETTINGS_INITIAL_WINDOW_SIZE, SETTINGS_MAX_FRAME_SIZE = 1, 4, 5
BIG_WINDOW = (1 << 31) - 1
STREAM_NUMBER = struct.Struct(">I")

BESIDE = -1  # the number of the calls that are only there to keep the server busy

Answer = tuple[int, bool]  # the call's number, whether it is right


@dataclass(frozen=True)
class Request:
    """What every call sends, and the size of a right answer (without gRPC's prefix).

    `beside_calls` calls with the body `beside` are kept in flight on each gRPC connection, uncounted: bad neighbours."""

    path: str
    body: bytes
    size: int
    timeout_ms: int = 0
    beside: bytes = b""
    beside_calls: int = 0


class Connection(Protocol):
    """A socket that speaks one dialect."""

    sock: socket.socket
    out: bytearray

    def idle(self) -> bool:
        """Whether one more call may start now."""

    def start(self, number: int) -> None:
        """Puts the call into `out`."""

    def feed(self, data: bytes) -> list[Answer]:
        """Takes what arrived; the calls that ended."""


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def prefixed(message: bytes) -> bytes:
    """As gRPC frames a message."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def literal(name: str, value: str) -> bytes:
    """A header field that is neither indexed nor compressed (names and values shorter than 127 bytes)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class WholeCall:
    """The frames of a call whose body the windows let out at once."""

    def __init__(self, block: bytes, body: bytes, max_frame: int) -> None:
        frames = [frame(HEADERS, END_HEADERS, 0, block)]
        for at in range(0, len(body), max_frame):
            piece = body[at : at + max_frame]
            frames.append(frame(DATA, END_STREAM if at + len(piece) == len(body) else 0, 0, piece))
        self._frames = bytearray().join(frames)
        starts = accumulate(map(len, frames[:-1]), initial=0)
        self._places = [start + 5 for start in starts]  # of the stream number in a frame's head

    def of(self, stream: int) -> bytearray:
        """The frames with this stream number; good until the next call."""
        for place in self._places:
            STREAM_NUMBER.pack_into(self._frames, place, stream)
        return self._frames


class GrpcConnection:
    """HTTP/2 as a gRPC client speaks it.  A call is right when it ends with exactly `size` bytes of DATA."""

    def __init__(self, port: int, request: Request) -> None:
        self.sock = connect(port)
        self.body, self.beside = prefixed(request.body), prefixed(request.beside)
        self.size = request.size + 5
        fields = {":method": "POST", ":scheme": "http", ":path": request.path, ":authority": "localhost"}
        fields |= {"content-type": "application/grpc", "te": "trailers"}
        if request.timeout_ms:
            fields["grpc-timeout"] = f"{request.timeout_ms}m"
        self.block = b"".join(literal(name, value) for name, value in fields.items())
        self.whole = WholeCall(self.block, self.body, 16384)
        settings = ((SETTINGS_HEADER_TABLE_SIZE, 0), (SETTINGS_INITIAL_WINDOW_SIZE, BIG_WINDOW))
        self.out = bytearray(PREFACE)
        self.out += frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))
        self.out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", BIG_WINDOW - 65535))
        self.received = bytearray()
        self.consumed = 0
        self.next_stream = 1
        self.calls: dict[int, list[int]] = {}  # stream -> [number, bytes of DATA so far]
        self.window, self.initial, self.max_frame = 65535, 65535, 16384
        self.streams: dict[int, list[int]] = {}  # stream that still sends -> [its window, bytes sent]
        self.dead = False
        for _ in range(request.beside_calls):
            self.start(BESIDE)

    def idle(self) -> bool:
        return not self.dead

    def start(self, number: int) -> None:
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.calls[stream] = [number, 0]
        if number != BESIDE and not self.streams and len(self.body) <= min(self.initial, self.window):
            self.out += self.whole.of(stream)
            self.window -= len(self.body)
            return
        self.out += frame(HEADERS, END_HEADERS, stream, self.block)
        self.streams[stream] = [self.initial, 0]
        self._send_data()

    def _send_data(self) -> None:
        """As much of the waiting bodies as the peer's windows allow, oldest stream first."""
        for stream, state in list(self.streams.items()):
            body = self.beside if self.calls[stream][0] == BESIDE else self.body
            while True:
                window, sent = state
                count = min(len(body) - sent, window, self.window, self.max_frame)
                if count <= 0:
                    break
                last = sent + count == len(body)
                self.out += frame(DATA, END_STREAM if last else 0, stream, body[sent : sent + count])
                state[:] = window - count, sent + count
                self.window -= count
                if last:
                    del self.streams[stream]
                    break
            if self.window <= 0:
                return

    def feed(self, data: bytes) -> list[Answer]:
        self.received += data
        ended: list[Answer] = []
        at = 0
        while len(self.received) - at >= 9:
            head, flags, stream = struct.unpack_from(">IBI", self.received, at)
            length = head >> 8
            if len(self.received) - at - 9 < length:
                break
            payload = self.received[at + 9 : at + 9 + length]
            at += 9 + length
            self._take(head & 0xFF, flags, stream & 0x7FFFFFFF, payload, ended)
        del self.received[:at]
        return ended

    def _take(self, kind: int, flags: int, stream: int, payload: bytearray, ended: list[Answer]) -> None:
        if kind == DATA:
            self.consumed += len(payload)
            if stream in self.calls:
                self.calls[stream][1] += len(payload)
            if self.consumed > 1 << 30:
                self.out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self.consumed))
                self.consumed = 0
        elif kind == SETTINGS and not flags & ACK:
            self._settings(payload)
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, bytes(payload))
        elif kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self.window += more
            elif stream in self.streams:
                self.streams[stream][0] += more
            self._send_data()
        elif kind == GOAWAY:
            self.dead = True
        if (kind in (DATA, HEADERS) and flags & END_STREAM) or kind == RST_STREAM:
            self.streams.pop(stream, None)
            number, got = self.calls.pop(stream)
            if number == BESIDE:
                self.start(BESIDE)
            else:
                ended.append((number, kind == HEADERS and got == self.size))

    def _settings(self, payload: bytearray) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == SETTINGS_INITIAL_WINDOW_SIZE:
                for state in self.streams.values():
                    state[0] += value - self.initial
                self.initial = value
            elif key == SETTINGS_MAX_FRAME_SIZE:
                self.max_frame = value
                self.whole = WholeCall(self.block, self.body, value)
        self.out += frame(SETTINGS, ACK, 0)
        self._send_data()


class RestConnection:
    """HTTP/1.1 with keep-alive, one call at a time.  A call is right when it is 200 with a body of `size` bytes."""

    def __init__(self, port: int, request: Request) -> None:
        self.sock = connect(port)
        head = f"POST {request.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.request = f"{head}Content-Length: {len(request.body)}\r\n\r\n".encode() + request.body
        self.size = request.size
        self.out = bytearray()
        self.received = bytearray()
        self.number: int | None = None

    def idle(self) -> bool:
        return self.number is None

    def start(self, number: int) -> None:
        self.number = number
        self.out += self.request

    def feed(self, data: bytes) -> list[Answer]:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or self.number is None:
            return []
        head = bytes(self.received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(self.received) - end - 4 < length:
            return []
        number, self.number = self.number, None
        self.received.clear()
        return [(number, head.startswith(b"http/1.1 200") and length == self.size)]


def drive(connections: list[Connection], due: np.ndarray, timeout_s: float = 0) -> dict[str, float]:
    """Starts call i at due[i] seconds from now; returns the summary described in the module's docstring."""
    calls, last = due.tolist(), float(due[-1])  # an array's items are slow to read one by one
    begun, ended, right = [0.0] * len(calls), [0.0] * len(calls), [False] * len(calls)
    waiting: deque[int] = deque()
    readers = {connection.sock: connection for connection in connections}
    sockets = list(readers)
    following, open_calls, turn = 0, 0, 0
    zero = time.perf_counter()
    while following < len(calls) or waiting or open_calls:
        now = time.perf_counter() - zero
        if following == len(calls) and now > last + GRACE_S:
            break
        while following < len(calls) and calls[following] <= now:
            waiting.append(following)
            following += 1
        busy = 0
        while waiting and busy < len(connections):
            connection = connections[turn % len(connections)]
            turn += 1
            if not connection.idle():
                busy += 1
                continue
            number = waiting.popleft()
            begun[number], busy = now, 0
            connection.start(number)
            open_calls += 1
        writers = [connection.sock for connection in connections if connection.out and not flush(connection)]
        pause = calls[following] - (time.perf_counter() - zero) if following < len(calls) else 0.05
        readable, _, _ = select.select(sockets, writers, [], max(0.0, pause))
        for sock in readable:
            data = sock.recv(RECEIVE)
            if not data:
                raise ConnectionError("the server closed the connection")
            for number, good in readers[sock].feed(data):
                ended[number], right[number] = time.perf_counter() - zero, good
                open_calls -= 1
    return summary(due, np.array(begun), np.array(ended), np.array(right), timeout_s)


def flush(connection: Connection) -> bool:
    """Sends what the socket takes; whether that was all."""
    with contextlib.suppress(BlockingIOError):
        del connection.out[: connection.sock.send(connection.out)]
    return not connection.out


def summary(
    due: np.ndarray, begun: np.ndarray, ended: np.ndarray, right: np.ndarray, timeout_s: float
) -> dict[str, float]:
    answered = ended > 0
    good = right & (ended - begun <= timeout_s) if timeout_s else right
    elapsed = max(ended.max() - due[0], 1e-6)
    latency = (ended - due)[right] * 1e6
    lag = (begun - due)[begun > 0] * 1e6
    points = np.percentile(latency, [50, 90, 99, 99.9]) if latency.size else np.full(4, np.nan)
    return {
        "sent": int((begun > 0).sum()),
        "ok": int(right.sum()),
        "good": int(good.sum()),
        "wrong": int((answered & ~right).sum()),
        "lost": int(len(due) - answered.sum()),
        "per_s": float(right.sum() / elapsed),
        "good_per_s": float(good.sum() / elapsed),
        "mean_us": float(latency.mean()) if latency.size else float("nan"),
        **dict(zip(("p50_us", "p90_us", "p99_us", "p999_us"), map(float, points), strict=True)),
        "max_us": float(latency.max()) if latency.size else float("nan"),
        "lag_p99_us": float(np.percentile(lag, 99)) if lag.size else float("nan"),
    }


def wake_on_time() -> None:
    """Asks the kernel not to round this thread's timers up, by 50 µs as it does otherwise; elsewhere than on Linux they stay as they are."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def stand_for_another_machine() -> None:
    """Lets this process in before the server's threads, where that is allowed: clients do not wait for the server's processors.

    A better niceness alone does not: the kernel lets a thread finish its time slice (of milliseconds) before a nicer one wakes up."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except (OSError, AttributeError):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, FIRST)


def main() -> None:
    parser = argparse.ArgumentParser(description="Open-loop load on one server.")
    parser.add_argument("--face", choices=["grpc", "rest"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, required=True, help="the request, without gRPC's prefix")
    parser.add_argument(
        "--size", type=int, required=True, help="bytes of a right answer, without gRPC's prefix"
    )
    parser.add_argument("--rate", type=float, required=True, help="calls per second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--timeout_ms", type=int, default=0, help="gRPC deadline of every call; 0 = none")
    parser.add_argument(
        "--beside", type=Path, help="a second request, kept in flight on the same connections"
    )
    parser.add_argument("--beside_calls", type=int, default=0, help="how many of those per connection")
    arguments = parser.parse_args()
    kind = GrpcConnection if arguments.face == "grpc" else RestConnection
    beside = arguments.beside.read_bytes() if arguments.beside else b""
    request = Request(
        arguments.path,
        arguments.body.read_bytes(),
        arguments.size,
        arguments.timeout_ms,
        beside,
        arguments.beside_calls,
    )
    connections: list[Connection] = [kind(arguments.port, request) for _ in range(arguments.connections)]
    count = max(1, int(arguments.rate * arguments.seconds))
    gaps = np.random.default_rng(11).exponential(1 / arguments.rate, count)
    due = np.cumsum(gaps) + 0.05
    wake_on_time()
    stand_for_another_machine()
    before, started = time.process_time(), time.perf_counter()
    result = drive(connections, due, arguments.timeout_ms / 1e3)
    cores = (time.process_time() - before) / (time.perf_counter() - started)
    print(json.dumps({**result, "generator_cores": cores}))


if __name__ == "__main__":
    main()
