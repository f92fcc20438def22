"""`tfs warmup make` and `tfs warmup record`: writes the warm-up file of a version, assets.extra/tf_serving_warmup_requests.

Owns: that file's place and what a record is. `make` needs only the SavedModel; `record` stands between clients and a server and keeps
the first requests that pass.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Final

import grpc

from tfs.client import _calls, _channel, _wire
from tfs.client.types import ModelMetadata
from tfs.commands import inputs, output, saved_model, shared
from tfs.errors import FailedPrecondition, InvalidArgument, Unavailable
from tfs.flags import MAX_PORT

PLACE: Final = Path("assets.extra") / "tf_serving_warmup_requests"
MOST: Final = 1000  # a version with more records than this is refused by the server
# Method -> field of PredictionLog.
_LOGGED: Final = {"Classify": 2, "Regress": 3, "MultiInference": 4, "Predict": 6}
_A_YEAR_S: Final = 365 * 86400.0
_SERVICE: Final = "/tensorflow.serving.PredictionService/"


def main(arguments: list[str]) -> int:
    return shared.run("warmup", _warmup, arguments)


def _warmup(arguments: list[str]) -> int:
    parser = shared.parser("warmup", "Write the warm-up file of a version.", server=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|record")
    make = commands.add_parser("make", help="from given inputs, or from zeros")
    make.add_argument(
        "version_dir", type=Path, help="the version directory (or a base path: its highest version)"
    )
    make.add_argument("input", nargs="*", default=[], help=inputs.HELP)
    make.add_argument("--signature", action="append", default=[], help="may be repeated; all when not given")
    make.add_argument(
        "--rows", type=int, action="append", default=[], help="rows of zeros, a record each; may be repeated"
    )
    record = commands.add_parser("record", help="from the requests that pass through to a server")
    record.add_argument("version_dir", type=Path)
    record.add_argument("server", help="the server that answers: host:8500")
    record.add_argument("--port", type=int, default=0, help="where clients connect meanwhile (127.0.0.1)")
    record.add_argument("--count", type=int, default=100, help=f"requests to keep, at most {MOST}")
    record.add_argument("--seconds", type=shared.positive, default=60, help="how long to wait for them")
    shared.add_server_flags(record)
    for one in (make, record):
        one.add_argument("--force", action="store_true", help="replace a warm-up file that is there")
        one.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    given = parser.parse_args(arguments)
    directory = saved_model.find(given.version_dir)
    path = directory / PLACE
    if path.exists() and not given.force:
        raise FailedPrecondition(f"{path} is there already; --force replaces it")
    records = _made(directory, given) if given.command == "make" else _recorded(given)
    _write(path, records)
    if given.json:
        output.say_json({"path": str(path), "records": len(records)})
    else:
        output.say(f"{path}: {len(records)} record(s)")
    return 0


def _write(path: Path, records: Sequence[bytes]) -> None:
    """Complete or not at all: a server may be watching the directory."""
    from tfs.lifecycle import tfrecord

    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("wb") as file:
        tfrecord.write(file, records)
    fresh.replace(path)


def _log(method: str, request: bytes) -> bytes:
    """A PredictionLog that holds `request`."""
    return _wire.field(_LOGGED[method], _wire.field(1, request))


def _made(directory: Path, given: argparse.Namespace) -> list[bytes]:
    graphs = saved_model.read(directory)
    metadata = ModelMetadata(
        str(directory), 0, {name: s for graph in graphs for name, s in graph.signatures.items()}
    )
    names = given.signature or (["serving_default"] if given.input else list(metadata.signatures))
    records = []
    for name in names:
        signature = inputs.signature_of(metadata, name)
        sent = [inputs.read(given.input, signature)] if given.input else []
        sent = sent or [inputs.zeros(signature, rows) for rows in given.rows or [1]]
        for one in sent:  # a record that fails keeps the version from loading
            inputs.check(one, signature)
        head = _calls.spec("model", signature=name)
        records += [_log("Predict", _calls.predict(head, one, ()).request) for one in sent]
    if not records:
        raise InvalidArgument(f"{directory} has no signature to make a request for")
    return records


class _Recorder:
    """Passes every call on as bytes and keeps the first `wanted` that a warm-up can repeat."""

    def __init__(self, channel: grpc.Channel, wanted: int) -> None:
        self.records: list[bytes] = []
        self.full = threading.Event()
        self._channel = channel
        self.wanted = wanted
        self._lock = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        call = self._channel.unary_unary(details.method)

        def run(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                reply: bytes = call(request, timeout=_remaining(context), metadata=_metadata(context))
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
                raise
            self._keep(details.method, request)
            return reply

        return grpc.unary_unary_rpc_method_handler(run)

    def _keep(self, path: str, request: bytes) -> None:
        method = path.removeprefix(_SERVICE)
        if method not in _LOGGED:
            return
        with self._lock:
            if len(self.records) < self.wanted:
                self.records.append(_log(method, request))
            if len(self.records) >= self.wanted:
                self.full.set()


def _remaining(context: grpc.ServicerContext) -> float | None:
    """Seconds left to the client; without a deadline grpcio says centuries, which it does not take back."""
    left: float | None = context.time_remaining()
    return left if left is not None and left < _A_YEAR_S else None


def _metadata(context: grpc.ServicerContext) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]


def _recorded(given: argparse.Namespace) -> list[bytes]:
    """Until `count` requests have passed, `seconds` are over, or Ctrl-C."""
    if not 1 <= given.count <= MOST:
        raise InvalidArgument(f"--count is {given.count}: a warm-up file holds 1 to {MOST} records")
    if not 0 <= given.port <= MAX_PORT:
        raise InvalidArgument(f"--port is {given.port}: expected 0 (any) to {MAX_PORT}")
    server = grpc.server(futures.ThreadPoolExecutor(8), options=_channel.options(None, None, 0, ()))
    with shared.open_channel(given.server, given) as channel:
        recorder = _Recorder(channel, given.count)
        server.add_generic_rpc_handlers((recorder,))
        try:
            port = server.add_insecure_port(f"127.0.0.1:{given.port}")
        except RuntimeError:
            raise Unavailable(f"port {given.port} of 127.0.0.1 is taken") from None
        server.start()
        where = f"recording: let clients ask 127.0.0.1:{port} in place of {given.server}"
        print(where, file=sys.stderr if given.json else sys.stdout, flush=True)
        _wait(recorder, given.seconds)
        server.stop(1).wait()
    if not recorder.records:
        raise InvalidArgument(f"no request passed in {given.seconds:g} s: nothing is written")
    return recorder.records


def _wait(recorder: _Recorder, seconds: float) -> None:
    with output.progress(recorder.wanted, True) as bar:
        waited = 0.0
        while waited < seconds and not recorder.full.wait(0.25):
            waited += 0.25
            bar.show(len(recorder.records), f"{len(recorder.records)} requests")
