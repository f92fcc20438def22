"""The stream of reflection over a scripted client: a client that leaves costs nothing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tfs.transport.grpc_aio import _reflect


class Echo:
    """A Reflection that answers with the question."""

    def answer(self, request: bytes) -> bytes:
        return request


async def silent_after(question: bytes) -> AsyncIterator[bytes]:
    yield question
    await asyncio.Event().wait()


def test_a_client_that_leaves_leaves_no_task() -> None:
    async def run() -> None:
        echo: Any = Echo()
        context: Any = None
        waiting: set[asyncio.Task[bytes]] = set()
        answers = _reflect(echo, waiting)(silent_after(b"?"), context)
        assert await anext(answers) == b"?"
        stream = asyncio.ensure_future(anext(answers))  # type: ignore[arg-type,var-annotated]
        while not waiting:
            await asyncio.sleep(0)
        (question,) = waiting
        stream.cancel()
        await asyncio.wait({stream, question})
        assert stream.cancelled()
        assert question.cancelled()
        assert not waiting

    asyncio.run(run())
