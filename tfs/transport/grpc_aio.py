"""gRPC by grpcio.aio: every method, any credentials, unix sockets.

Owns: the grpcio server, deadlines and cancellation as grpcio reports them, errors -> status.  Handlers have no (de)serializers:
bytes in, bytes out.  Predict goes straight to the engine; everything else comes from the method table.
Must not know: tensors, messages.  Everything runs on the event loop that serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tfs._fastpath import ENTRY_GRPC, Engine, Mailbox
from tfs.errors import Code, Internal, TfsError
from tfs.service.methods import PREDICT, Handler
from tfs.service.waiting import Late
from tfs.transport.health import CHECK, WATCH, Health
from tfs.transport.reflection import METHODS as REFLECTION
from tfs.transport.reflection import Reflection
from tfs.transport.tls import TlsFiles, server_context

_log = logging.getLogger(__name__)

# The reference cuts a status message there; headers have limits on the way to the client.
MESSAGE_LIMIT = 1024
_CUT = b"...TRUNCATED"
# grpcio refuses calls that have not been picked up beyond 1,000 (soft) and 3,000 (hard): a burst of clients loses calls. A queued
# call is a few kB; a million of them is the point where memory, not this number, must speak.
_PENDING = 1_000_000
_STATUS = {int(code.value[0]): code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """Addresses as grpcio takes them ("127.0.0.1:8500", "unix:/path"); sizes in bytes, -1 without a limit."""

    addresses: Sequence[str]
    tls: TlsFiles | None = None
    max_receive_bytes: int = -1
    channel_arguments: Sequence[tuple[str, int | str]] = ()


class GrpcServer:
    """One grpcio.aio server over an engine and a method table."""

    def __init__(
        self,
        settings: GrpcSettings,
        engine: Engine,
        mailbox: Mailbox,
        methods: Mapping[str, Handler],
        *,
        health: Health | None = None,
        reflection: Reflection | None = None,
    ) -> None:
        """Binds nothing yet. Loop thread. `health` None: its methods are UNIMPLEMENTED."""
        self._settings, self._health = settings, health
        self._reflecting: set[asyncio.Task[bytes]] = set()
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", settings.max_receive_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server.max_pending_requests", _PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING),
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a silent sharing
            *settings.channel_arguments,
        ]
        table = {PREDICT: grpc.unary_unary_rpc_method_handler(_predict(engine, mailbox))}
        for path, handler in methods.items():
            table[path] = grpc.unary_unary_rpc_method_handler(_unary(path, handler))
        if health is not None:
            table[CHECK] = grpc.unary_unary_rpc_method_handler(_unary(CHECK, health.check))
            table[WATCH] = grpc.unary_stream_rpc_method_handler(_watch(health))
        if reflection is not None:
            for path in REFLECTION:
                reflect = _reflect(reflection, self._reflecting)
                table[path] = grpc.stream_stream_rpc_method_handler(reflect)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_says_more_than_goodbye)
        self._server = grpc.aio.server(handlers=[_Table(table)], options=options)

    async def start(self) -> list[int]:
        """Binds and serves; the ports in the order of the addresses (1 for a unix socket).

        Raises Internal naming the address, InvalidArgument for bad TLS settings."""
        ports = []
        for address in self._settings.addresses:
            try:
                if self._settings.tls is None:
                    port = self._server.add_insecure_port(address)
                else:
                    port = self._server.add_secure_port(address, _credentials(self._settings.tls))
            except RuntimeError as error:
                raise Internal(f"gRPC cannot listen on {address}: {error}") from None
            if not port:
                raise Internal(f"gRPC cannot listen on {address}")
            ports.append(port)
        await self._server.start()
        return ports

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, ends the streams, waits for the calls under way, ends the rest after `grace_s`."""
        if self._health is not None:
            self._health.close()
        for waiting in self._reflecting:
            waiting.cancel()
        await self._server.stop(grace_s)


def _says_more_than_goodbye(record: logging.LogRecord) -> bool:
    """False for the traceback that grpcio logs when an answer meets a call whose client has just left: that is no error of anybody's."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


class _Table(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The table as grpcio asks for it."""

    def __init__(self, table: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._get = table.get

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._get(handler_call_details.method)


def _predict(
    engine: Engine, mailbox: Mailbox
) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
    predict = engine.predict

    async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        left = context.time_remaining()
        late = Late()
        try:
            answer = predict(mailbox, request, None if left is None else int(left * 1e9), late, ENTRY_GRPC)
            return answer if isinstance(answer, bytes) else await late.wait(answer)
        except TfsError as error:
            return await _abort(context, error)
        except Exception as error:
            return await _abort(context, _unexpected(PREDICT, error))

    return handle


def _unary(path: str, handler: Handler) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
    async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        left = context.time_remaining()
        try:
            return await handler(request, None if left is None else int(left * 1e9))
        except TfsError as error:
            return await _abort(context, error)
        except Exception as error:
            return await _abort(context, _unexpected(path, error))

    return handle


def _watch(health: Health) -> Callable[[bytes, grpc.aio.ServicerContext], AsyncIterator[bytes]]:
    async def handle(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            async for status in health.watch(request):
                yield status
        except TfsError as error:
            await _abort(context, error)

    return handle


def _reflect(
    reflection: Reflection, waiting: set[asyncio.Task[bytes]]
) -> Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], AsyncIterator[bytes]]:
    """`waiting` holds the tasks that wait for a client's next question; cancelling one ends its stream."""

    async def handle(
        requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        while True:
            task = asyncio.ensure_future(anext(requests))
            waiting.add(task)
            try:
                await asyncio.wait({task})
            finally:  # also when the client has left
                waiting.discard(task)
                task.cancel()
            if task.cancelled() or isinstance(task.exception(), StopAsyncIteration):
                return
            yield reflection.answer(task.result())

    return handle


async def _abort(context: grpc.aio.ServicerContext, error: TfsError) -> bytes:
    """Ends the call with the error's code and text; never returns."""
    await context.abort(_STATUS[int(error.code)], cut(error.message))
    return b""  # for the type checker: abort raises


def _unexpected(path: str, error: Exception) -> TfsError:
    """A fault of ours: the caller learns that much and no more."""
    _log.error("%s failed", path, exc_info=error)
    return TfsError("Internal error; the server's log has the details", Code.INTERNAL)


def cut(message: str) -> str:
    """A status message as the reference sends it: at most 1024 bytes, then a mark. Bytes that are no UTF-8 are left out."""
    if message.isascii() and len(message) <= MESSAGE_LIMIT:
        return message
    encoded = message.encode("utf-8", "surrogateescape")
    if len(encoded) > MESSAGE_LIMIT:
        encoded = encoded[:MESSAGE_LIMIT] + _CUT
    return encoded.decode("utf-8", "ignore")


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    server_context(tls)  # grpcio reports bad PEM to its debug log only
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_verify,
    )
