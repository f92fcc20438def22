"""What the native transport leaves to Python: cold calls -> the method table, REST connections -> uvicorn.

Owns: draining `NativeServer.take()` and `take_rest()` on the loop, answering each call once.  The native transport serves Predict by
itself; every other method that it was asked for comes here, and every REST connection with a request of another form.
Must not know: HTTP, messages.  Loop thread only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from tfs.errors import Code, TfsError
from tfs.service.methods import Handler
from tfs.transport.grpc_aio import cut
from tfs.transport.rest_protocol import Adopted, RestServer

_log = logging.getLogger(__name__)


class ColdCall(Protocol):
    """One call as the native transport hands it over; answered by exactly one of `reply` and `fail`."""

    path: str
    body: bytes
    timeout_ns: int | None

    def reply(self, body: bytes) -> None: ...
    def fail(self, code: int, message: str) -> None: ...


class NativeServer(Protocol):
    """The part of `_fastpath.NativeServer` that the bridge uses."""

    def fileno(self) -> int: ...
    def take(self) -> Sequence[ColdCall]: ...
    def take_rest(self) -> Sequence[tuple[int, bytes, bool]]: ...
    def rest_closed(self) -> None: ...


class NativeBridge:
    """Answers the cold calls of one native server from the method table; `rest` gets the REST connections (None: there are none)."""

    def __init__(
        self, server: NativeServer, methods: Mapping[str, Handler], rest: RestServer | None = None
    ) -> None:
        self._server, self._methods, self._rest = server, methods, rest
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._server.fileno(), self.take)

    async def stop(self, patience_s: float) -> None:
        """Takes no more calls, waits for those under way and cancels what is left after `patience_s`; before the native server
        closes."""
        asyncio.get_running_loop().remove_reader(self._server.fileno())
        self.take()
        tasks = set(self._tasks)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=patience_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self) -> None:
        """Begins whatever waits."""
        calls = self._server.take()  # empties the descriptor, so what comes from now on is told again
        if self._rest is not None:
            for fd, read, full in self._server.take_rest():
                self._rest.adopt(Adopted(fd, read, full, self._server.rest_closed))
        for call in calls:
            task = asyncio.ensure_future(self._serve(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, call: ColdCall) -> None:
        handler = self._methods.get(call.path)
        if handler is None:
            call.fail(int(Code.UNIMPLEMENTED), "Method not found!")
            return
        try:
            call.reply(await handler(call.body, call.timeout_ns))
        except TfsError as error:
            call.fail(int(error.code), cut(error.message))
        except asyncio.CancelledError:
            call.fail(int(Code.CANCELLED), "the server is shutting down")
            raise
        except Exception:
            _log.exception("%s failed", call.path)
            call.fail(int(Code.INTERNAL), "Internal error; the server's log has the details")
