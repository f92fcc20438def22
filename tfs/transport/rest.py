"""The REST API as a bare ASGI application: routes, bodies, status codes, headers.

Owns: HTTP on our side: which answer has which status and headers, gzip both ways, CORS, the body limit.  Runs under `RestServer`
(scope["target"] is the raw request target, scope["connection"] the protocol), in the loop of the mailbox.
Must not know: tensors.  Predict goes from body bytes to reply bytes inside the engine.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from tfs import messages
from tfs._fastpath import ENTRY_REST, METHOD_CLASSIFY, METHOD_OTHER, METHOD_REGRESS, Engine, Mailbox, Ticket
from tfs.errors import Code, TfsError
from tfs.service import example_json
from tfs.service.examples import Examples, ExampleService, pack
from tfs.service.metadata import MetadataService
from tfs.service.model import ModelService
from tfs.service.waiting import Late
from tfs.transport import rest_routes as routes
from tfs.transport.byte_budget import FREE_BYTES, ByteBudget
from tfs.transport.rest_answers import Headers, error_body, respond, status_line
from tfs.transport.rest_protocol import Answer
from tfs.transport.rest_routes import Route

_log = logging.getLogger(__name__)

_HTTP: Final[dict[int, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_METHODS: Final = {routes.CLASSIFY: METHOD_CLASSIFY, routes.REGRESS: METHOD_REGRESS}
_JSON: Final = b"content-type: application/json\r\n"
_NO_BODY: Final = (
    b"content-type: text/html; charset=ISO-8859-1\r\n"  # as the reference labels its empty answers
)
_CORS: Final = [
    b"access-control-allow-origin: *\r\n",
    b"access-control-allow-methods: POST, GET\r\n",
    b"access-control-allow-headers: Content-Type\r\n",
]
_GZIP: Final = [b"content-encoding: gzip\r\n", b"vary: accept-encoding\r\n"]
# What is looked at before the body is read.
_WATCHED: Final = frozenset({b"content-encoding", b"content-length", b"expect"})
# Smaller answers are not worth the client's time.
GZIP_MIN_BYTES: Final = 4096
# Larger bodies are (de)compressed, and Examples taken apart, off the loop.
_THREAD_BYTES: Final = 1 << 16
# What the reference allows a gzip trailer to declare.
_GUNZIP_LIMIT: Final = 104_857_600
_CACHED_ROUTES: Final = 1024
# What Python keeps for each piece of a body beside its bytes.
_PART_BYTES: Final = 64
# And for each object and each value of a JSON body of Examples (measured); three bytes may stand for an object, so there is a limit.
_OBJECT_BYTES: Final = 800
_VALUE_BYTES: Final = 40
_EXAMPLES_LIMIT: Final = 2 << 30


class Page(NamedTuple):
    """An answer that is not of the API: metrics, OpenAPI."""

    status: int
    content_type: bytes
    body: bytes


# HTTP status and body.
_Reply = tuple[int, bytes]
# path, then query and fragment ("" when there are none) -> page
MakePage = Callable[[bytes, bytes], Page]


@dataclass(frozen=True, slots=True)
class RestSettings:
    """`timeout_ms` <= 0: none. `max_body_bytes` counts after gunzip; 0: any. `byte_budget`: of all bodies together; 0: any."""

    timeout_ms: int = 30_000
    cors: bool = False
    max_body_bytes: int = 1 << 30
    byte_budget: int = 1 << 29


class _Refused(Exception):
    """A request that ends before it means anything."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Gone(Exception):
    """The client left before its request was complete."""


class RestApp:
    """The ASGI application; loop thread of the mailbox."""

    def __init__(
        self,
        settings: RestSettings,
        engine: Engine,
        mailbox: Mailbox,
        *,
        examples: ExampleService,
        metadata: MetadataService,
        model: ModelService,
        pages: Mapping[bytes, MakePage],
    ) -> None:
        """`pages`: exact path -> what answers it, whatever the method; looked up before the API."""
        self._engine, self._mailbox = engine, mailbox
        self._examples, self._metadata, self._model = examples, metadata, model
        self._pages = pages
        self._limit = settings.max_body_bytes
        self.budget = ByteBudget(settings.byte_budget)
        self._timeout_ns = settings.timeout_ms * 1_000_000 if settings.timeout_ms > 0 else None
        self._headers = [_JSON, *_CORS] if settings.cors else [_JSON]
        self._routes: dict[tuple[str, bytes], Route] = {}

    def native_settings(self) -> dict[str, Any]:
        """What NativeServer.listen_rest needs to answer as this application does: limits of a call, what stands above its answer."""
        return {
            "status_lines": [status_line(_HTTP[code]) for code in range(len(_HTTP))],
            "headers": b"".join(self._headers),
            "gzip_headers": b"".join(_GZIP),
            "gzip_min_bytes": GZIP_MIN_BYTES,
            "max_body_bytes": self._limit,
            "timeout_ns": self._timeout_ns or 0,
        }

    def at_once(
        self, connection: Any, method: str, target: bytes, headers: Headers, body: bytes
    ) -> Answer | Coroutine[Any, Any, _Reply] | None:
        """A whole Predict on a route that is known already (see AtOnce): runs it, or begins it. None: not for this way."""
        route = self._routes.get((method, target))
        if route is None or route.action != routes.PREDICT or 0 < self._limit < len(body):
            return None
        if len(body) > FREE_BYTES:  # __call__ counts it
            return None
        packed = False
        for name, _ in headers:
            if name in _WATCHED and name != b"content-length":
                return None
            packed |= name == b"accept-encoding"
        reply = self._predict(route, body, connection)
        if not isinstance(reply, tuple):
            return reply
        if packed and len(reply[1]) >= GZIP_MIN_BYTES:
            return _ready(reply)
        return reply[0], self._headers, reply[1]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request. `scope` is uvicorn's, with what RestProtocol adds; the answer goes out by `respond`, not by `send`."""
        headers = {name: value for name, value in scope["headers"] if name in _WATCHED}
        connection = scope["connection"]
        try:
            if scope["begun"] is not None:
                status, answer = await scope["begun"]
            else:
                reply = await self._reply(scope, headers, receive, connection)
                if reply is None:
                    return
                status, answer = reply
            if len(answer) >= GZIP_MIN_BYTES and _wants_gzip(scope):
                answer = await _packed(answer)
                await respond(scope, status, [*self._headers, *_GZIP], answer)
            else:
                await respond(scope, status, self._headers, answer)
        except _Refused as refused:
            # A client that was promised a 100 keeps its body for itself: where the next request begins is anybody's guess.
            scope["cycle"].keep_alive &= b"expect" not in headers
            await respond(scope, refused.status, self._headers, error_body(refused.message))
        except _Gone:
            pass
        except asyncio.CancelledError:  # the grace of the server's end is over
            scope["cycle"].keep_alive = False
            if connection.flow.write_paused:  # who does not read would keep the end waiting
                connection.transport.abort()
            else:
                await respond(scope, 503, self._headers, error_body("The server is shutting down"))
        finally:
            if connection.held:
                self.budget.give_back(connection)

    async def _reply(
        self, scope: Any, headers: dict[bytes, bytes], receive: Any, connection: Any
    ) -> _Reply | None:
        """The API's answer; None when the request was answered as none of the API. Raises _Refused and _Gone."""
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise _Refused(417, "The only expectation that this server meets is 100-continue")
        route = self._routes.get((scope["method"], scope["target"])) or await self._first_time(scope)
        if route is None:
            return None
        if route.action != routes.PREDICT:
            return await self._other(route, headers, receive, connection)
        reply = self._predict(route, await self._body(headers, receive, connection), connection)
        return reply if isinstance(reply, tuple) else await reply

    # -- what is not yet known to be a route

    async def _first_time(self, scope: Any) -> Route | None:
        """The route, remembered; None when there is none and the request has been answered."""
        method: str = scope["method"]
        if method not in routes.METHODS:
            raise _Refused(501, f"Method {method} is not implemented")
        split = routes.split_target(scope["target"])
        if split is None:
            raise _Refused(400, "The request target is not a valid URI")
        path, full_path = split
        make_page = self._pages.get(path)
        if make_page is not None:
            page = make_page(path, full_path[len(path) :])
            await respond(scope, page.status, [b"content-type: %s\r\n" % page.content_type], page.body)
        elif not routes.is_api(full_path):
            body = error_body(f"Not found: {method} {full_path.decode('ascii')}")
            await respond(scope, 404, [_JSON], body)
        elif method == "OPTIONS":
            await self._preflight(scope)
        else:
            try:
                route = routes.find(method, full_path)
            except routes.BadRoute as error:
                self._count(error.model, METHOD_OTHER, error.code, time.monotonic_ns())
                body = b"" if error.silent else error_body(error.message)
                await respond(scope, _HTTP[error.code], self._headers, body)
            else:
                if len(self._routes) >= _CACHED_ROUTES:
                    self._routes.clear()
                self._routes[method, scope["target"]] = route
                return route
        return None

    async def _preflight(self, scope: Any) -> None:
        """OPTIONS of anything under /v1/: only the Origin is looked at."""
        started = time.monotonic_ns()
        origin = _header(scope, b"origin")
        known = b"http://" in origin or b"https://" in origin
        self._count("", METHOD_OTHER, Code.OK if known else Code.FAILED_PRECONDITION, started)
        await respond(scope, 200 if known else 400, [_NO_BODY, *self._headers[1:]], b"")

    # -- the API

    def _predict(self, route: Route, body: bytes, connection: Any) -> _Reply | Coroutine[Any, Any, _Reply]:
        """The reply of a run in this thread, or what waits for one elsewhere. Raises nothing."""
        late = Late()
        try:
            answer = self._engine.predict_json(
                self._mailbox, body, route.model, route.version, route.label, self._timeout_ns, late
            )
        except Exception as error:
            return _failed(route, error)
        if isinstance(answer, bytes):
            return 200, answer
        return self._later(route, late.wait(answer), answer, connection)

    async def _later(self, route: Route, answer: Awaitable[bytes], ticket: Ticket, connection: Any) -> _Reply:
        connection.abandoned = ticket.cancel
        try:
            return 200, await answer
        except Exception as error:
            return _failed(route, error)
        finally:
            connection.abandoned = None

    async def _other(
        self, route: Route, headers: dict[bytes, bytes], receive: Any, connection: Any
    ) -> _Reply:
        started = time.monotonic_ns()
        code = Code.OK
        try:
            if route.action in _METHODS:
                body = await self._body(headers, receive, connection)
                answer = await self._by_example(route, body, connection)
            elif route.action == routes.METADATA:
                answer = self._metadata.json(route.model, route.version, route.label)
            elif route.action == routes.STATUS:
                answer = self._model.status_json(route.model, route.version)
            else:
                answer = self._model.list_json()
            status = 200
        except TfsError as error:
            code, status, answer = error.code, _HTTP[error.code], error_body(error.message)
        except (_Refused, _Gone):
            raise
        except Exception as error:
            code, (status, answer) = Code.INTERNAL, _unexpected(route, error)
        self._count(route.model, _METHODS.get(route.action, METHOD_OTHER), code, started)
        return status, answer

    async def _by_example(self, route: Route, body: bytes, connection: Any) -> bytes:
        """Classify or regress: JSON -> Examples -> one run -> JSON."""
        if len(body) < _THREAD_BYTES:
            signature_name, examples = _taken_apart(body)
        else:  # some microseconds per feature
            weight = _weight(body)
            if weight > _EXAMPLES_LIMIT:
                raise TfsError(
                    f"The Examples of this body take more than {_EXAMPLES_LIMIT} bytes to read as JSON; send fewer, or use gRPC",
                    Code.RESOURCE_EXHAUSTED,
                )
            self._hold(connection, weight)
            signature_name, examples = await asyncio.to_thread(_taken_apart, body)
        spec = messages.ModelSpec(name=_text(route.model), signature_name=signature_name)
        if route.version is not None:
            spec.version.value = route.version
        elif route.label is not None:
            spec.version_label = _text(route.label)
        return await self._examples.single(
            _METHODS[route.action],
            spec,
            examples,
            self._timeout_ns,
            ENTRY_REST,
            example_json.ENCODERS[route.action],
        )

    def _count(self, model: str, method: int, code: Code, started_ns: int) -> None:
        self._engine.count_request(model, method, ENTRY_REST, int(code), time.monotonic_ns() - started_ns)

    # -- bodies

    async def _body(self, headers: dict[bytes, bytes], receive: Any, connection: Any) -> bytes:
        """The whole request body, gunzipped; raises _Refused (413, 429) or _Gone."""
        limit = self._limit
        if limit and int(headers.get(b"content-length", b"0")) > limit:
            raise _too_large(limit)
        event = await receive()
        body: bytes = event.get("body", b"")
        if event.get("more_body"):
            event, body = await self._rest_of_body(event, receive, connection)
        else:
            self._hold(connection, len(body))
        if event["type"] == "http.disconnect":
            raise _Gone
        if limit and len(body) > limit:
            raise _too_large(limit)
        if b"gzip" in headers.get(b"content-encoding", b""):
            content_bytes = declared(body, limit)
            self._hold(connection, len(body) + content_bytes)
            if content_bytes < _THREAD_BYTES:
                return gunzip(body, content_bytes)
            return await asyncio.to_thread(gunzip, body, content_bytes)
        return body

    async def _rest_of_body(self, event: Any, receive: Any, connection: Any) -> tuple[Any, bytes]:
        """A body that did not come at once: the last event and all bytes. Counted as it comes, not as announced."""
        limit = self._limit
        parts, size = [event.get("body", b"")], len(event.get("body", b""))
        while event.get("more_body"):
            if limit and size > limit:
                raise _too_large(limit)
            event = await receive()
            parts.append(event.get("body", b""))
            size += len(parts[-1])
            self._hold(connection, size + _PART_BYTES * len(parts))
        return event, b"".join(parts)

    def _hold(self, connection: Any, size: int) -> None:
        if not self.budget.take(connection, size):
            raise _Refused(
                429,
                f"No room for the request: the bodies being received and served exceed {self.budget.limit} bytes "
                "(--max_held_request_bytes)",
            )


def _weight(body: bytes) -> int:
    """What a JSON body of Examples takes in memory as Python's objects, at most."""
    return len(body) + _OBJECT_BYTES * body.count(b"{") + _VALUE_BYTES * body.count(b",")


def _taken_apart(body: bytes) -> tuple[str, Examples]:
    """Signature name and Examples of a body of classify or regress."""
    decoded = example_json.decode(body)
    return decoded.signature_name, pack(decoded.examples)


def _too_large(limit: int) -> _Refused:
    return _Refused(413, f"The request body is larger than {limit} bytes (--rest_max_body_bytes)")


async def _ready(reply: _Reply) -> _Reply:
    """A reply that is there, for whom an awaitable is asked."""
    return reply


def _failed(route: Route, error: Exception) -> _Reply:
    if isinstance(error, TfsError):
        return _HTTP[error.code], error_body(error.message)
    return _unexpected(route, error)


def _unexpected(route: Route, error: Exception) -> _Reply:
    """A fault of ours: the caller learns that much and no more."""
    _log.error("REST %s of model %r failed", route.action, route.model, exc_info=error)
    return 500, error_body("Internal error; the server's log has the details")


def _header(scope: Any, wanted: bytes) -> bytes:
    """A header's value, b"" when it is absent."""
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _wants_gzip(scope: Any) -> bool:
    for item in _header(scope, b"accept-encoding").lower().split(b","):
        name, _, parameters = item.partition(b";")
        if name.strip() in (b"gzip", b"x-gzip", b"*"):
            return parameters.replace(b" ", b"") not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    return False


async def _packed(body: bytes) -> bytes:
    if len(body) < _THREAD_BYTES:
        return gzip.compress(body, 1)
    return await asyncio.to_thread(gzip.compress, body, 1)


def _text(name: str) -> str:
    """A name that protobuf takes: no model is called anything else."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def declared(body: bytes, limit: int) -> int:
    """What a gzip trailer says of the content's size; 0 when it is more than the reference unpacks.

    Raises _Refused (413) when that is within the reference's limit and beyond `limit` (0: any)."""
    size = int.from_bytes(body[-4:], "little")
    if size > _GUNZIP_LIMIT:
        return 0
    if limit and size > limit:
        raise _too_large(limit)
    return size


def gunzip(body: bytes, size: int) -> bytes:
    """The content of one gzip member of `size` bytes; what is no such thing is an empty body, as in the reference."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(body, size + 1)
    except zlib.error:
        return b""
    return content if unpacker.eof and len(content) == size and not unpacker.unused_data else b""
