"""uvicorn, made to fit: signals stay ours, slow clients are dropped, the raw target and the limits reach the application.

Owns: the subclasses of uvicorn's protocol and server, the timeouts of reading a request, the answers to what is not HTTP.
Must not know: routes, models.  Loop thread only.

The timeouts cost nothing per request: a connection notes when it began to read, when it last got something and when it answered,
and one sweep per second over the connections closes those that take too long, are idle, or do not fetch their answers.

A request that is there whole when its headers are read is offered to the application before uvicorn makes a scope, a cycle and a
task for it: `AtOnce` answers most of them in the same turn of the loop.  Whatever it does not want goes the usual way of ASGI.

Where the core's I/O threads accept for us (docs/native.md) connections come by `RestServer.adopt`, with the bytes that were read already.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import httptools
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfs.errors import Internal
from tfs.transport.byte_budget import ByteBudget
from tfs.transport.rest_answers import Headers, error_body, on_the_wire

_log = logging.getLogger(__name__)

# Request line and headers together; the reference has no limit, others stop at 8 to 64 KiB.
MAX_HEADER_BYTES = 1 << 20
# A body that comes in dribs keeps its connection and its memory: below this rate (over its whole time) it is given up.
MIN_BODY_BYTES_PER_S = 1024
# And while the bodies of all connections leave no room for others: pause and rate.
CROWDED_PAUSE_S = 2.0
CROWDED_BODY_BYTES_PER_S = 1 << 16
# So much of a body is read after its request was refused, so that the client sees the answer and not a reset.
MAX_DISCARDED_BYTES = 64 << 20
# A pipeline of requests that are answered at once keeps the loop for so many runs, then others have their turn.
MAX_AT_ONCE = 16
_SWEEP_S = 1.0
# What was cancelled has so long to say so.
_CANCEL_S = 1.0
KEEP_ALIVE_S = 50  # as the reference's idle timeout
_BACKLOG = 2048


# Status, header lines (`b"name: value\\r\\n"`) without Content-Length, body.
Answer = tuple[int, list[bytes], bytes]


class AtOnce(Protocol):
    """Whom a whole request is offered to.  An Answer goes out; anything else makes uvicorn call the ASGI application, which finds it
    as scope["begun"]: None where nothing has been done yet."""

    def __call__(
        self, connection: Any, method: str, target: bytes, headers: Headers, body: bytes
    ) -> Answer | Any: ...


@dataclass(slots=True)
class Adopted:
    """A connection that somebody else accepted: the bytes `read` from it so far, whether there are too many (`full`), whom to tell its end."""

    fd: int
    read: bytes
    full: bool
    closed: Callable[[], None]
    ended: bool = False

    def end(self) -> None:
        """Tells, once."""
        if not self.ended:
            self.ended = True
            self.closed()


class RestProtocol(HttpToolsProtocol):
    """One connection. `max_connections` 0: any number. `adopted`: how it came, when somebody else accepted it."""

    def __init__(
        self,
        *args: Any,
        at_once: AtOnce | None = None,
        max_connections: int = 0,
        adopted: Adopted | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.at_once = at_once
        self.max_connections = max_connections
        self.adopted = adopted
        self.postponed = False  # the headers are read, and uvicorn does not know yet
        self.in_turn = 0  # requests answered at once in this turn of the loop
        self.parts: list[bytes] = []  # the body meanwhile
        self.answered: float = 0.0  # loop time of the last answer
        self.held = 0  # bytes of the present request that count against the budget of all
        self.began: float | None = (
            None  # loop time at which reading the present request began; None: not reading
        )
        self.heard: float = 0.0  # loop time of the last bytes of a body
        self.in_body = False
        self.received = 0  # bytes of the part that is being read: headers, then body
        self.unread, self.unread_since = 0, 0.0  # bytes of answers that wait for the client, as of a sweep
        self.abandoned: Callable[[], None] | None = (
            None  # what the application wants called when the client leaves
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        full = self.adopted.full if self.adopted else 0 < self.max_connections < len(self.connections)
        if full:
            self.refuse(503, f"All {self.max_connections} connections are taken (--max_connections)")
            return
        self.began = self.loop.time()
        if self.adopted and self.adopted.read:
            self.data_received(self.adopted.read)
            if self.flow.read_paused:  # the loop begins to read only after this, whatever was said before
                self.loop.call_soon(self._pause_again)

    def _pause_again(self) -> None:
        if self.flow.read_paused and not self.transport.is_closing():
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.abandoned is not None:
            self.abandoned()
        if self.adopted:
            self.adopted.end()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self.in_turn = 0
        left: bytes | memoryview = data
        while left:  # again only after an offer of another protocol, of which a pipeline may hold many
            left = self._feed(left)

    def _feed(self, data: bytes | memoryview) -> bytes | memoryview:
        """Reads `data`; what is left of it after an offer of another protocol."""
        if self.parser is None:  # closed, and bytes were still on their way
            return b""
        if self.in_body:
            self.heard = self.loop.time()
        else:
            if self.began is None and (self.cycle is None or self.cycle.response_complete):
                self.began = self.loop.time()  # blank lines between requests count as reading, too
            self.received += len(data)
            if self.received > MAX_HEADER_BYTES:
                self.refuse(431, f"The request's headers are longer than {MAX_HEADER_BYTES} bytes")
                return b""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            self.refuse(501, "The method is not known to this server")
        except httptools.HttpParserUpgrade as upgrade:
            return self._refuse_upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.refuse(400, f"This is not HTTP/1.1: {error}")
        else:
            if self.postponed:  # the rest of the body comes later
                self._give_to_uvicorn(None)
        return b""

    def _refuse_upgrade(self, rest: memoryview) -> bytes | memoryview:
        """Goes on in HTTP/1.1. The parser has taken the body for another protocol, so the request is read again without the offer;
        `rest`, what follows its headers, comes next."""
        if self.parser.get_method() == b"CONNECT":
            self.refuse(501, "The method is not known to this server")
            return b""
        kept = [(name, value) for name, value in self.headers if name not in (b"upgrade", b"connection")]
        head = b"".join(b"%s: %s\r\n" % header for header in kept)
        line = b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        self.parser = httptools.HttpRequestParser(self)
        self.in_body, self.received = False, 0
        self._feed(line + head + b"\r\n")
        return rest

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.began = self.loop.time()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # and `_refuse_upgrade` comes next
        self.in_body, self.received = True, 0
        self.heard = self.began = self.loop.time()
        free = self.cycle is None or self.cycle.response_complete
        gone = self.flow.write_paused or self.transport.is_closing()
        # The parser would read on after an HTTP/1.0 request that asks to be kept alive; its answer is the connection's last.
        old = self.parser.get_http_version() == "1.0" and self.parser.should_keep_alive()
        left = self.in_turn < MAX_AT_ONCE
        self.postponed = free and left and self.at_once is not None and not gone and not old
        if not self.postponed:
            self._give_to_uvicorn(None)

    def _give_to_uvicorn(self, begun: Any) -> None:
        """Makes uvicorn's scope, cycle and task for the request whose headers have been read, and gives them what is there of the body."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        # The path is the application's business: one that uvicorn cannot parse would end the connection without an answer.
        self.url, self.headers, self.expect_100_continue = b"/", headers, expect
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope |= {"headers": headers, "target": url, "connection": self, "begun": begun}
        super().on_headers_complete()
        self.url = url
        scope["cycle"] = self.cycle  # its task has not begun yet
        if not self.parser.should_keep_alive():  # older uvicorns do not ask
            self.cycle.keep_alive = False
        self.postponed = False
        for part in self.parts:
            super().on_body(part)
        self.parts.clear()

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        if self.postponed:
            self.parts.append(body)
            return
        super().on_body(body)
        if self.cycle.response_complete and self.received > MAX_DISCARDED_BYTES:
            self.transport.close()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.began, self.in_body, self.received = None, False, 0
        if self.postponed and self._answer_at_once():
            return
        super().on_message_complete()

    def _answer_at_once(self) -> bool:
        """Offers the request, which is there whole; False when uvicorn has it now."""
        assert self.at_once is not None
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        answer = self.at_once(self, self.parser.get_method().decode("ascii"), self.url, self.headers, body)
        if not isinstance(answer, tuple):
            self._give_to_uvicorn(answer)
            return False
        self.postponed = False
        self.in_turn += 1
        self.parts.clear()
        self.answered = self.loop.time()
        keep_alive = self.parser.should_keep_alive()
        self.transport.write(on_the_wire(self.server_state.default_headers, keep_alive, *answer))
        if not keep_alive:
            self.transport.close()
        return True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.answered = self.loop.time()

    def idle(self, now: float) -> bool:
        """Whether the connection has been between two requests for too long."""
        waiting = self.began is None and (self.cycle is None or self.cycle.response_complete)
        return waiting and now - self.answered > KEEP_ALIVE_S

    def too_slow(
        self, now: float, header_timeout_s: float, body_timeout_s: float, crowded: bool = False
    ) -> bool:
        """Whether the client has had its time to send the headers, or the body. `crowded`: others wait for the room that it takes."""
        if self.began is None or self.flow.read_paused:
            return False
        if not self.in_body:
            return bool(header_timeout_s) and now - self.began > header_timeout_s
        rate = MIN_BODY_BYTES_PER_S
        if crowded and self.held:
            body_timeout_s = min(body_timeout_s or CROWDED_PAUSE_S, CROWDED_PAUSE_S)
            rate = CROWDED_BODY_BYTES_PER_S
        if not body_timeout_s:
            return False
        allowed = body_timeout_s + self.received / rate
        return now - self.heard > body_timeout_s or now - self.began > allowed

    def not_reading(self, now: float, timeout_s: float) -> bool:
        """Whether the client has left an answer where it is for that long. 0: never. Asked once per sweep."""
        left = self.transport.get_write_buffer_size()
        if left != self.unread:
            self.unread, self.unread_since = left, now
        return bool(left and timeout_s) and now - self.unread_since > timeout_s

    def refuse(self, status: int, message: str) -> None:
        """Answers a connection whose request never reached the application, and closes it."""
        if self.transport.is_closing():
            return
        self.began = None
        cycle = None if self.postponed else self.cycle
        self.postponed = False
        if cycle is not None and not cycle.response_complete and not self.in_body:
            cycle.keep_alive = False  # what came before is whole: its answer, then the end
            self.parser = None  # type: ignore[assignment]
            return
        if cycle is None or not cycle.response_started or (cycle.response_complete and not self.in_body):
            json_header = [b"content-type: application/json\r\n"]
            self.transport.write(on_the_wire([], False, status, json_header, error_body(message)))
        self.transport.close()


class RestServer(uvicorn.Server):
    """A uvicorn server that runs inside our loop: `start`, then `stop`. Signals are the composition root's business."""

    def __init__(
        self,
        app: Any,
        *,
        address: str,
        port: int,
        header_timeout_s: float,
        body_timeout_s: float,
        at_once: AtOnce | None = None,
        max_connections: int = 0,
        budget: ByteBudget | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Binds at once (port 0: any free one), raising Internal that names the address. `budget`: the application's."""
        self._timeouts = header_timeout_s, body_timeout_s
        self._budget = budget or ByteBudget(0)
        self._socket = _bind(address, port)
        self._protocol = functools.partial(RestProtocol, at_once=at_once, max_connections=max_connections)
        config = Config(
            app,
            http=self._protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        config.ssl = tls
        super().__init__(config)
        self._tasks: list[asyncio.Task[None]] = []
        self._adopting: set[asyncio.Task[None]] = set()
        self._accepts = True
        self._stopped = False
        self.port = int(self._socket.getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def start(self) -> None:
        """Accepts connections when it returns."""
        await self._begin([self._socket])

    async def start_adopting(self) -> socket.socket:
        """Serves, but accepts nothing: the caller does so from the listening socket that is given, which is then the caller's to close,
        and brings connections by `adopt`."""
        self._accepts = False
        await self._begin([])
        self._socket.listen(_BACKLOG)
        return self._socket

    async def _begin(self, sockets: list[socket.socket]) -> None:
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup(sockets=sockets)
        self._tasks = [asyncio.create_task(self.main_loop()), asyncio.create_task(self._sweep())]

    def adopt(self, adopted: Adopted) -> None:
        """Takes over a connection. After `stop` it is closed."""
        task = asyncio.create_task(self._adopt(adopted))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt(self, adopted: Adopted) -> None:
        connection = socket.socket(fileno=adopted.fd)
        if self._stopped:
            connection.close()
            adopted.end()
            return
        make = functools.partial(
            self._protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            adopted=adopted,
        )
        try:
            _, protocol = await asyncio.get_running_loop().connect_accepted_socket(make, connection)
        except Exception as error:
            connection.close()
            adopted.end()
            if not isinstance(error, OSError):  # that is a client which has left
                _log.error("a REST connection could not be taken over", exc_info=error)
            return
        if self.should_exit:  # `shutdown` may have told the others already
            protocol.shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, lets requests under way finish for `grace_s`, then has the rest cancelled (503) and closes what is left."""
        self.should_exit = True
        if not self._tasks:  # it never began
            self._socket.close()
            return
        self.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._tasks[1].cancel()
        if self._adopting:
            await asyncio.wait(self._adopting)
        await self.shutdown(sockets=[self._socket] if self._accepts else [])
        self._stopped = True
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_CANCEL_S)
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now, crowded = loop.time(), self._budget.was_full()
            for connection in list(self.server_state.connections):
                if not isinstance(connection, RestProtocol):
                    continue
                if connection.too_slow(now, *self._timeouts, crowded):
                    connection.refuse(408, "The request took too long to arrive")
                if connection.not_reading(now, self._timeouts[1]):
                    connection.transport.abort()
                if connection.idle(now):
                    connection.transport.close()


def _bind(address: str, port: int) -> socket.socket:
    """A listening address; every interface means IPv6 and IPv4 where there is IPv6."""
    everywhere = address in ("", "0.0.0.0", "::")
    wanted = (
        [("::", socket.AF_INET6), ("0.0.0.0", socket.AF_INET)]
        if everywhere
        else [(address, _family(address))]
    )
    problem: str | None = "no address"
    for host, family in wanted:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            problem = error.strerror
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
            listener.bind((host, port))
            listener.setblocking(False)
            return listener
        except OSError as error:
            listener.close()
            problem = error.strerror
        except OverflowError:
            listener.close()
            problem = "a port is a number from 0 to 65535"
    raise Internal(f"REST cannot listen on {address}:{port}: {problem}")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
