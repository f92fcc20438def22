"""A steady open-loop load that checks every answer, for as long as its standard input is open.

    python -m bench.steady --face=grpc --port=8500 --rate=300 < pipe

Asks the `plus` model (see bench.versions) for 1.0. Odd versions must answer 2.0 and even ones 3.0: over gRPC the answer names its
version and must fit it, over REST it must be one of the two. Latency counts from the moment a call was due.
Runs in its own process. Must not know: servers, swaps.

Prints `ready` when its first calls have been answered, and at the end one JSON object: {sent, failed, wrong, p50_us, p99_us, max_us, errors}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import numpy as np
import uvloop

from bench.workloads import PREDICT, array_of, predict_request
from tfs import messages

MODEL = "plus"
VALUES = {0: 3.0, 1: 2.0}  # version modulo 2 -> the answer for 1.0
GRACE_S = 10.0
Ask = Callable[[], Awaitable[bool]]  # one call: whether its answer is right; raises when it failed


def grpc_ask(port: int) -> Ask:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    call = channel.unary_unary(PREDICT)
    request = predict_request(MODEL, {"x": np.array([1.0], np.float32)}, False)

    async def ask() -> bool:
        answer = messages.PredictResponse.FromString(await call(request, timeout=GRACE_S))
        version = answer.model_spec.version.value
        return bool(array_of(answer.outputs["y"])[0] == VALUES[version % 2])

    return ask


def rest_ask(port: int) -> Ask:
    body = b'{"instances": [1.0]}'
    head = (
        f"POST /v1/models/{MODEL}:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask() -> bool:
        connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        writer.write(head.encode() + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answered.partition(b"content-length:")[2].split(b"\r\n")[0])
        content = await reader.readexactly(length)
        idle.append(connection)
        if not answered.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{answered[:20]!r}: {content[:200]!r}")
        return json.loads(content)["predictions"][0] in VALUES.values()

    return ask


class Tally:
    """What became of the calls."""

    def __init__(self) -> None:
        self.sent = 0
        self.wrong = 0
        self.errors: Counter[str] = Counter()
        self.latencies_us: list[float] = []

    async def one(self, ask: Ask, due: float) -> None:
        self.sent += 1
        try:
            right = await asyncio.wait_for(ask(), GRACE_S)
        except Exception as error:  # whatever it is, the call is lost
            self.errors[f"{type(error).__name__}: {str(error)[:300]}"] += 1
            return
        self.wrong += not right
        self.latencies_us.append((time.perf_counter() - due) * 1e6)

    def summary(self) -> dict[str, object]:
        points = np.percentile(self.latencies_us, [50, 99, 100]) if self.latencies_us else [np.nan] * 3
        return {
            "sent": self.sent,
            "failed": sum(self.errors.values()),
            "wrong": self.wrong,
            **dict(zip(("p50_us", "p99_us", "max_us"), map(float, points), strict=True)),
            "errors": dict(self.errors),
        }


async def drive(ask: Ask, rate: float) -> Tally:
    """Calls at random moments, `rate` a second on average, until standard input ends."""
    tally = Tally()
    random.seed(11)
    for _ in range(50):  # connections open, first runs over
        await ask()
    print("ready", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    tasks = set()
    due = time.perf_counter()
    while not ended.done():
        due += random.expovariate(rate)
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(tally.one(ask, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE_S)
    return tally


async def main() -> None:
    parser = argparse.ArgumentParser(description="A steady load that checks every answer.")
    parser.add_argument("--face", choices=["grpc", "rest"], required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300, help="calls per second")
    arguments = parser.parse_args()
    ask = (grpc_ask if arguments.face == "grpc" else rest_ask)(arguments.port)
    tally = await drive(ask, arguments.rate)
    print(json.dumps(tally.summary()))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        uvloop.run(main())
