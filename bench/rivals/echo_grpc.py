"""The floor of a Python gRPC server: grpcio.aio on uvloop, a raw-bytes generic handler that returns what came.

python bench/rivals/echo_grpc.py PORT
"""

from __future__ import annotations

import sys

import grpc
import uvloop


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.echo)

    async def echo(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return request


async def main(port: int) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers([Echo()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
