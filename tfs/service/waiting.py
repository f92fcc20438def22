"""Waiting on the loop for a call that the engine answers later.

Owns: the bridge from the engine's `done` callback to a future, and cancellation.  Loop thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from tfs._fastpath import Engine, Mailbox, Outputs, Ticket
from tfs.errors import TfsError


class Late:
    """The `done` of one call. The engine calls it from the mailbox, so never before the submitting function has returned: the
    future is only made when there is something to wait for."""

    __slots__ = ("_future",)
    _future: asyncio.Future[Any]

    def __call__(self, result: Any) -> None:
        if not self._future.done():  # else nobody waits any more
            self._future.set_result(result)

    def wait(self, ticket: Ticket) -> Coroutine[Any, Any, Any]:
        """Awaitable: the answer, when it comes; raises its TfsError. When the waiting task is cancelled, so is the call.

        To be called in the same turn of the loop as the submitting function; awaited whenever it suits."""
        self._future = asyncio.get_running_loop().create_future()
        return self._answer(ticket)

    async def _answer(self, ticket: Ticket) -> Any:
        try:
            result = await self._future
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        if isinstance(result, TfsError):
            raise result
        return result


async def run_engine(
    engine: Engine, mailbox: Mailbox, request: bytes, timeout_ns: int | None, *, method: int, entry: int
) -> Outputs:
    """`Engine.run`, awaited."""
    late = Late()
    answer = engine.run(mailbox, request, timeout_ns, late, method, entry)
    if not hasattr(answer, "cancel"):
        return answer
    outputs: Outputs = await late.wait(cast(Ticket, answer))
    return outputs
