"""Waiting on the loop for a call that the engine answers later.

Owns: the bridge from the engine's `done` callback to a future, and cancellation.  Loop thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tfs._fastpath import Engine, Mailbox, Outputs, Ticket
from tfs.errors import TfsError

T = TypeVar("T")


def settle(future: asyncio.Future[T], result: T) -> None:
    """Gives the engine's answer to whoever waits; nobody does after a cancellation."""
    if not future.done():
        future.set_result(result)


async def outcome(answer: T | Ticket, future: asyncio.Future[T | TfsError]) -> T:
    """The answer of a call that was submitted with `done` settling `future`: at once, or when it comes.  Raises its TfsError.

    When the waiting task is cancelled, so is the call."""
    if not hasattr(answer, "cancel"):
        return answer
    try:
        result = await future
    except asyncio.CancelledError:
        answer.cancel()
        raise
    if isinstance(result, TfsError):
        raise result
    return result


async def run_engine(
    engine: Engine, mailbox: Mailbox, request: bytes, timeout_ns: int | None, *, method: int, entry: int
) -> Outputs:
    """`Engine.run`, awaited."""
    future: asyncio.Future[Outputs | TfsError] = asyncio.get_running_loop().create_future()
    done: Callable[[Outputs | TfsError], None] = lambda result: settle(future, result)  # noqa: E731
    return await outcome(engine.run(mailbox, request, timeout_ns, done, method, entry), future)
