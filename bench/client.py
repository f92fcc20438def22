"""The light client against tensorflow-serving-api: CPU time of the calling process for a Predict of 4 MiB.

    python -m bench.client [ROUNDS]

Owns: the figures `client_*`: milliseconds of CPU (user + system, all threads, by getrusage) per call, the medians of alternating
rounds. Each client is a process of its own; both talk to one server process that answers with bytes made beforehand, so that only
the client is measured, gRPC's share included. Replies: `large` 4 MiB of floats as the reference writes them (float_val), `small`
one float. `client_import_ms` and `client_ready_ms` are milliseconds on the clock. Must not know: models.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial

import grpc
import numpy as np

from bench.runner import ROOT, Launch, Process, alternate, free_port

ROUNDS = 5
FLOATS = 1 << 20
CALLS = 24
WARM_UP = 12  # until malloc has found its thresholds for blocks of this size
STARTS = 15
REPLIES = ("large", "small")
CLIENTS = ("tfs", "serving_api")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def reply(size: int) -> bytes:
    """A PredictResponse with `size` floats in float_val."""
    from tfs.messages import PredictResponse

    made = PredictResponse()
    made.model_spec.name = "m"
    made.outputs["y"].dtype = 1
    made.outputs["y"].tensor_shape.dim.add(size=size)
    made.outputs["y"].float_val.extend(np.arange(size, dtype=np.float32).tolist())
    return bytes(made.SerializeToString())


def serve(port: int) -> None:
    """Answers Predict of the models `large` and `small`."""
    replies = {b"large": reply(FLOATS), b"small": reply(1)}

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        return next(made for name, made in replies.items() if name in request[:16])

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1), options=UNLIMITED)
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def by_tfs(port: int, model: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    from tfs.client import Client

    client = Client(f"127.0.0.1:{port}")
    return lambda: client.predict(model, {"x": x})["y"]


def by_serving_api(port: int, model: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    """As TensorFlow Serving's documentation writes it."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call() -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
        return tf.make_ndarray(stub.Predict(request).outputs["y"])

    return call


def cpu_ms(client: str, port: int, model: str) -> float:
    """Milliseconds of CPU per call in this process."""
    x = np.random.default_rng(1).random(FLOATS, np.float32)
    call = {"tfs": by_tfs, "serving_api": by_serving_api}[client](port, model, x)
    for _ in range(WARM_UP):
        y = call()
    assert y.shape == (FLOATS if model == "large" else 1,)
    assert y.dtype == np.float32
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(CALLS):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent / CALLS * 1e3


def in_a_process(client: str, port: int, model: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.client", "--measure", client, str(port), model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    return {"cpu_ms": float(done.stdout.split()[-1])}


def start_ms() -> dict[str, float]:
    """On the clock, in fresh interpreters, medians: importing both gRPC clients, and until one is made (which brings grpc along)."""
    code = """
from time import perf_counter as now
begin = now()
from tfs.client import AsyncClient, Client
imported = now()
Client("localhost:8500")
print((imported - begin) * 1e3, (now() - begin) * 1e3)
"""
    command = [sys.executable, "-c", code]
    taken = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(STARTS)
    ]
    columns = (statistics.median(map(float, column)) for column in zip(*taken, strict=True))
    return dict(zip(("client_import_ms", "client_ready_ms"), columns, strict=True))


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> milliseconds (of CPU per call, but for the start), or (`*_ratio`) ours over tensorflow-serving-api's of the same run."""
    port = free_port()
    command = [sys.executable, "-m", "bench.client", "--serve", str(port)]
    runs = {
        f"client_4mib_{model}_{client}_ms": partial(in_a_process, client, port, model)
        for model in REPLIES
        for client in CLIENTS
    }
    with Process(Launch("client-server", command, {"grpc": port})):
        samples = alternate(rounds, runs)
    figures = {name: statistics.median(one["cpu_ms"] for one in taken) for name, taken in samples.items()}
    for model in REPLIES:
        ours, theirs = (figures[f"client_4mib_{model}_{client}_ms"] for client in CLIENTS)
        figures[f"client_4mib_{model}_ratio"] = ours / theirs
    figures |= start_ms()
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    match sys.argv[1:]:
        case ["--serve", port]:
            serve(int(port))
        case ["--measure", client, port, model]:
            print(cpu_ms(client, int(port), model))
        case arguments:
            started = time.monotonic()
            json.dump(run(int(arguments[0]) if arguments else ROUNDS), sys.stdout, indent=2)
            print(f"\n{time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
