"""A call may be answered (deadline, cancel) while it still waits in a runner's queue.

Once the link of that queue and the link of the event loop's list of answers were one field of the ticket: the answer tore the queue,
and the server died with a null result.  Found by closing busy REST connections.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import grpc
import requests
from support import Server

from tfs import messages

PREDICT = "/tensorflow.serving.PredictionService/Predict"
ROUNDS = 10
TURNS = 3000  # of the model's loop: some 10 ms, so that forty calls wait for each other


def request() -> bytes:
    made = messages.PredictRequest()
    made.model_spec.name = "loop"
    tensor = made.inputs["n"]
    tensor.dtype = messages.DataType.DT_INT32
    tensor.tensor_shape.SetInParent()
    tensor.int_val.append(TURNS)
    return made.SerializeToString()


def test_deadlines_and_cancels_in_a_full_queue(server: Callable[..., Server], transport: str) -> None:
    one = server("loop", transport=transport)

    async def storm() -> set[grpc.StatusCode]:
        async with grpc.aio.insecure_channel(one.target) as channel:
            method = channel.unary_unary(PREDICT)
            codes = set()
            for turn in range(ROUNDS):
                calls = [method(request(), timeout=0.01 + 0.01 * (n % 8)) for n in range(40)]
                await asyncio.sleep(
                    0.03
                )  # the point of the test is what happens at such moments, not that it has passed
                for n, call in enumerate(calls):
                    if n % 3 == turn % 3:
                        call.cancel()
                for call in calls:
                    codes.add(await call.code())
            assert await method(request(), timeout=60)
            return codes

    assert asyncio.run(storm()) <= {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.OK,
    }


def test_rest_connections_closed_in_a_full_queue(server: Callable[..., Server]) -> None:
    one = server("loop")
    body = b'{"inputs": {"n": %d}}' % TURNS
    head = f"POST /v1/models/loop:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(ROUNDS):
        sockets = []
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", one.rest_port), timeout=10)
            sock.sendall(head + body)
            sockets.append(sock)
        assert requests.get(
            f"{one.url}/v1/models/loop", timeout=30
        ).ok  # the server has read what came before
        for sock in sockets:
            sock.close()
    answer = requests.post(f"{one.url}/v1/models/loop:predict", data=body, timeout=60)
    assert answer.json() == {"outputs": TURNS}
