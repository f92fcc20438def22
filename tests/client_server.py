"""A gRPC server whose answers a test chooses, for the tests of the client.

Owns: the server and what it was asked.  Must not know: any message.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc


class Answering:
    """A server that answers every method with `answer(method, request bytes, context)`; keeps what it was asked."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.asked: list[tuple[str, bytes, dict[str, Any]]] = []
        self.answer: Callable[[str, bytes, Any], bytes] = lambda method, request, context: b""
        self.server = grpc.server(
            futures.ThreadPoolExecutor(4),
            options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )
        self.server.add_generic_rpc_handlers((self,))
        if credentials is None:
            port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.target = f"127.0.0.1:{port}"
        self.server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def run(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = dict(context.invocation_metadata())
            self.asked.append((details.method, request, metadata))
            return self.answer(details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(run)
