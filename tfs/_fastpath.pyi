"""The typed face of the compiled core. Units are in the names; threads and errors are said per function."""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypedDict, type_check_only

from tfs.errors import TfsError

METHOD_PREDICT: Final[int]
METHOD_CLASSIFY: Final[int]
METHOD_REGRESS: Final[int]
METHOD_MULTI: Final[int]
METHOD_WARMUP: Final[int]
METHOD_OTHER: Final[int]  # counted only: REST status, metadata and malformed requests
ENTRY_GRPC: Final[int]
ENTRY_REST: Final[int]

TF_LIBRARY: Final[str]

def load_runtime(directory: str) -> str:
    """Loads libtensorflow_cc from `directory` (the installed tensorflow package) into this process, RTLD_LOCAL; returns TensorFlow's version.

    Raises FailedPrecondition when a library or symbol is missing. Main thread, once; later calls return the version again."""

def fake_runtime() -> None:
    """Tests: fills the TensorFlow table with a small in-process fake, so that the engine runs without TensorFlow."""

def report_crashes() -> None:
    """Prints, on a fatal signal, which models were being run. Once per process, by the composition root."""

def load_op_library(path: str) -> None:
    """`TF_LoadLibrary(path)`. Raises TfsError with TensorFlow's code and text. Any thread."""

def json_bounds(body: bytes) -> tuple[int, int]:
    """(begin, end) of the first JSON value of `body`. Raises InvalidArgument with the reference's parse error. Any thread."""

def json_excerpt(body: bytes) -> str:
    """The value of a body that `json_bounds` has passed, as the reference's messages show it (cut after 256 bytes or so); bytes that
    are no text are surrogates. Any thread."""

def take_examples(body: bytes) -> tuple[bytes, bytes, int]:
    """A serialized request whose field 2 is an Input -> (its other fields, its Examples, how many). The Examples are the `string_val`
    fields of a TensorProto, each with the context before it. Works without the GIL. Any thread.

    Raises Internal with the reference's empty text when the bytes are no such request, InvalidArgument when the context, once for each
    Example, would be more than 256 MiB."""

# Histogram: (count per bucket, not cumulative, the last one is +Inf; sum; number of samples).
_Histogram: TypeAlias = tuple[list[int], float, int]

@type_check_only
class _BatchSeries(TypedDict):
    """Batching of one model and signature. Signatures over the same tensors share batches, and count under the first that came."""

    wait: _Histogram  # per call, from the door to the start of its run; 52 limits 100 * 1.2**i
    size: _Histogram  # rows per batch without padding; 14 limits 2**i
    calls: int  # calls that were run
    rows: int
    padding_rows: int
    reruns: int  # runs made to part good calls from bad ones
    spoiled: int  # calls that may have got another call's error: a graph with state, or the budget of reruns was spent
    skipped: int  # calls whose deadline passed, or that were cancelled, before they were run
    queued_calls: int  # now
    queued_rows: int

@type_check_only
class _BatchCounters(TypedDict):
    """What `BatchThreads.counters` gives: a part of _Counters."""

    queuing: _Histogram
    batches: int
    input_size: _Histogram
    processed_size: _Histogram
    padding: dict[int, _Histogram]
    batching: dict[tuple[str, str], _BatchSeries]

@type_check_only
class _Counters(TypedDict):
    """What `Engine.counters` gives. Models are names, methods METHOD_*, entries ENTRY_*, codes canonical codes; times are microseconds."""

    requests: dict[tuple[str, int, int, int], int]  # (model, method, entry, code) -> requests
    latency: dict[
        tuple[str, int, int], _Histogram
    ]  # (model, method, entry) -> successes; 33 limits 10 * 1.8**i
    run: dict[tuple[str, int], _Histogram]  # (model, method) -> successful session runs; same limits
    queuing: _Histogram  # time in the batch queue; 52 limits 100 * 1.2**i
    batches: int  # batches run
    input_size: _Histogram  # rows of each input tensor of each batched call; 14 limits 2**i
    processed_size: _Histogram  # rows of each batch after rounding up; 14 limits 2**i
    padding: dict[int, _Histogram]  # size of the batch run -> rows of padding; 14 limits 2**i
    batching: dict[tuple[str, str], _BatchSeries]  # (model, signature), once a call was batched
    queued_calls: int  # now, in the whole process
    queued_bytes: int
    running: int

class LoadedServable:
    """One loaded version: session, plans and counters. Made by `LoadedServable.load`; freed by `close`."""

    name: str
    version: int
    @staticmethod
    def load(
        name: str,
        version: int,
        path: str,
        *,
        tags: Sequence[str],
        session_config: bytes = b"",
        heal: bool = True,
    ) -> LoadedServable:
        """Loads the SavedModel in `path`. Blocks (without the GIL). Any thread. Raises TfsError with TensorFlow's code and text."""
    @property
    def signature_defs(self) -> dict[str, bytes]:
        """Signature name -> serialized tensorflow.SignatureDef (including `defaults` and `__saved_model_init_op`)."""
    @property
    def warnings(self) -> list[str]:
        """What a user should know about the graph (py_function, variables nobody restores, healed variables)."""
    def define_union(self, signatures: Sequence[str]) -> str | None:
        """Makes (once) a hidden signature that feeds the distinct input tensors and fetches the distinct output tensors of
        `signatures` in one run; returns its name, to be used as signature_name. Aliases are tensor names ("node:0"). Any thread.

        None when the version has its 16 already: TensorFlow never forgets what it made for one. Raises InvalidArgument for an unknown
        signature, FailedPrecondition after `close`."""
    def enable_batching(self, threads: BatchThreads, **parameters: Any) -> None:
        """Before publishing: calls are joined to batches that `threads` run. Fields of BatchingParameters, None = the reference's
        default; `num_batch_threads` and `thread_pool_name` are not looked at. Raises InvalidArgument with the reference's texts."""
    def update_batching(self, **parameters: Any) -> None:
        """New settings for the batches to come, while calls run; nothing where batching is off. Any thread. Raises as above."""
    def is_stateless(self, signature: str) -> bool:
        """Whether all ops of `signature` are known to have no state, so that one more run changes nothing. False if there is no such
        signature. Any thread, before `close`."""
    def wait_unused(self, timeout_s: float) -> bool:
        """After it left the map: waits (without the GIL) until no call holds it; False when the time is up."""
    def close(self) -> None:
        """TF_CloseSession (runs in flight end CANCELLED), waits for the last hold, frees everything. Idempotent. Not on the loop thread."""

class BatchThreads:
    """The threads that run batches, one object per process, shared by all servables enabled with it."""

    def __init__(self, threads: int, name: str = "batch_threads") -> None:
        """`threads` 0: none, batches are taken by hand (tests). Raises InvalidArgument, or Unavailable when none could be started."""
    def counters(self) -> _BatchCounters:
        """A snapshot. Any thread."""
    def close(self) -> None:
        """Runs what is queued, then joins the threads; nothing may be submitted any more. Idempotent. `Engine.close` does it first."""

class Ticket:
    """A call under way."""

    def cancel(self) -> None:
        """Answers CANCELLED if nobody has answered; a queued call is skipped. `done` is still called exactly once."""

class Outputs:
    """Output tensors of a finished `Engine.run`."""

    aliases: list[str]
    version: int
    def dtype(self, alias: str) -> int:
        """The DataType number."""
    def shape(self, alias: str) -> tuple[int, ...]: ...
    def strings(self, alias: str) -> list[bytes]:
        """The elements of a DT_STRING tensor, row-major."""
    def numbers(self, alias: str) -> memoryview:
        """The raw little-endian bytes of a numeric tensor (keeps the tensor alive); wrap with numpy.frombuffer."""

class Engine:
    """Runners, timer, serving map, limits and counters: one per process. Methods may be called from any thread unless said otherwise."""

    def __init__(
        self,
        *,
        max_runners: int = 0,
        max_runners_per_model: int = 0,
        max_queued_calls: int = 0,
        max_queued_bytes: int = 0,
        tensor_content: bool = False,
        check_method_names: bool = False,
        batch_threads: BatchThreads | None = None,
    ) -> None:
        """0 means the default of the constant of that name in `_fast/runner.pxi`."""
    def publish(
        self,
        models: Mapping[str, Mapping[int, LoadedServable]],
        labels: Mapping[str, Mapping[str, int]] | None,
    ) -> None:
        """Swaps the serving map: model name -> version -> servable, model name -> label -> version. `labels` None: label map not
        initialised (UNAVAILABLE for label requests). Servables that left the map lose the map's hold when this returns."""
    def mailbox(self) -> Mailbox:
        """A new mailbox for one event loop."""
    def predict(
        self,
        mailbox: Mailbox,
        request: bytes,
        timeout_ns: int | None,
        done: Callable[[bytes | TfsError], None],
        entry: int = ...,
    ) -> bytes | Ticket:
        """A serialized PredictRequest -> serialized PredictResponse: the bytes at once when the run was inline, else a Ticket, and later
        `done(reply or error)` from `mailbox.drain()`. Errors found at once are raised as TfsError. Loop thread of the mailbox."""
    def predict_json(
        self,
        mailbox: Mailbox,
        body: bytes,
        model: str,
        version: int | None,
        label: str | None,
        timeout_ns: int | None,
        done: Callable[[bytes | TfsError], None],
    ) -> bytes | Ticket:
        """REST predict: JSON body -> JSON reply; otherwise as `predict`."""
    def run(
        self,
        mailbox: Mailbox | None,
        request: bytes,
        timeout_ns: int | None,
        done: Callable[[Outputs | TfsError], None] | None,
        method: int = ...,
        entry: int = ...,
    ) -> Outputs | Ticket:
        """As `predict`, but the answer is Outputs: for Classify, Regress, MultiInference. With `mailbox` None it blocks (no GIL held)
        and returns Outputs or raises; not on the loop thread. Counts the session run, not the request: what follows the run may still
        fail, so the service calls `count_request`."""
    def run_on(self, servable: LoadedServable, request: bytes, method: int = ...) -> Outputs:
        """Blocking run on a servable that need not be published (warm-up): model_spec's name and version are ignored."""
    def resolve(self, model: str, version: int | None, label: str | None) -> LoadedServable:
        """The published servable for a model spec; raises NotFound, InvalidArgument or Unavailable with the reference's texts."""
    def counters(self) -> _Counters:
        """A snapshot of all counters and histograms, for `tfs.metrics`."""
    def profile(self, on: bool) -> None:
        """Starts (from zero) or stops adding up where the time of calls goes: a clock read per stage and call while on."""
    def stages(self) -> dict[str, int]:
        """Nanoseconds by stage (decode, resolve, queue, assemble, run, scatter, wake, encode) and, under "calls", the number of calls
        that began, since `profile(True)`."""
    def count_request(self, model: str, method: int, entry: int, code: int, latency_ns: int) -> None:
        """Counts a request that did not come through `predict` or `predict_json`, which count theirs (latency only when code is 0)."""
    def close(self) -> None:
        """Refuses new calls, waits for those under way, joins all core threads. Idempotent."""

class Mailbox:
    """Completions for one event loop: an eventfd and a list."""

    def fileno(self) -> int:
        """Becomes readable when completions wait: `loop.add_reader(mailbox.fileno(), mailbox.drain)`."""
    def drain(self) -> None:
        """Encodes the waiting answers and calls their `done`. Loop thread."""
    def close(self) -> None: ...

def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`, unmasked. Any thread."""

def client_encode(head: bytes, inputs: Sequence[tuple[bytes, int, tuple[int, ...], Any]]) -> bytes:
    """A PredictRequest: `head` (the serialized fields model_spec and output_filter), then the inputs (alias, DataType, shape, values).

    Values: C-contiguous memory of as many little-endian elements as the shape says, for DT_STRING a list of bytes. Any thread.
    Raises InvalidArgument beyond 2 GiB. A thread keeps the memory of its last request of 256 KiB to 64 MiB for the next one."""

def client_decode(
    reply: bytes,
) -> tuple[dict[str, tuple[int, tuple[int, ...], memoryview | list[bytes]]], bytes]:
    """A PredictResponse -> ({alias: (DataType, shape, values)}, serialized ModelSpec). Values are read-only slices of `reply` where it
    holds them as they are, writable memory where it does not, and for DT_STRING a list of bytes. Any thread. Raises Internal."""

def live_handles() -> dict[str, int]:
    """Debug builds: live C objects by kind (calls, results, servables, plans, maps, batches); all zero when idle and closed. Release: {}."""

# -- test bench and benches only (_fast/fake.pxi, _fast/probe.pxi): single stages of the codec. Any thread; raise TfsError.

def fake_counts() -> dict[str, int]:
    """Tensors the fake handed out (`made`), those not deleted (`alive`), and the bytes asked for in all (`bytes`)."""

def _probe_decode(request: bytes, make: bool = True) -> dict[str, Any]:
    """What a PredictRequest decodes to; `inputs`: alias -> (dtype, shape, raw bytes or list of strings) or "bad".
    `make` False allocates no tensor: (dtype, elements, values)."""

def _probe_encode(
    model: bytes,
    version: int,
    signature: bytes,
    outputs: list[tuple[bytes, int, tuple[int, ...], Any]],
    as_content: bool = False,
    rows: tuple[int, int, int] | None = None,
    wanted: list[int] | None = None,
) -> bytes:
    """PredictResponse of `outputs` (alias, dtype, shape, raw bytes or list of strings); `rows`: rows of the batch, first row, row count."""

def _probe_codec_loop(request: bytes, times: int, as_content: bool = False) -> int:
    """Decode, make the first input's tensor, encode it, `times` times without the GIL; bytes of one reply."""

def _probe_copy_loop(data: bytes, times: int) -> None:
    """Two copies of `data` into fresh memory, `times` times without the GIL."""

def _probe_engine_loop(engine: Engine, request: bytes, times: int, timeout_ns: int = 0) -> int:
    """Bench: `times` calls of the engine one after the other, replies encoded, without Python; how many ran on this thread."""

def _probe_bare_run(engine: Engine, servable: LoadedServable, request: bytes, times: int) -> None:
    """Bench baseline: `times` inline session runs of the request's signature with feeds made once."""

def _probe_dtypes() -> list[tuple[int, str, str, int, int]]:
    """The dtype table: number, name, enum name, bytes per element (0: cannot be sent), typed field of TensorProto."""

def _probe_fields() -> dict[str, dict[str, int]]:
    """The field numbers the codec was built with: message -> field -> number."""

HAVE_NATIVE: Final[bool]
"""Whether this build has the native gRPC transport (libnghttp2 was found); without it the names below do not exist."""

class ColdCall:
    """One gRPC call of a method other than Predict, waiting for Python's answer: exactly one `reply` or `fail`.

    Any one thread at a time. Dropped without an answer it is answered INTERNAL. May outlive its connection and its server."""

    path: str
    body: bytes
    timeout_ns: int | None
    """What was left of the client's deadline when the call was taken; None = no deadline."""
    peer: str
    """As gRPC writes it: "ipv4:127.0.0.1:50000", "ipv6:%5B::1%5D:50000", "unix:"."""
    @property
    def cancelled(self) -> bool:
        """Nobody waits any more: the client cancelled or went away. An answer is then allowed and discarded."""
    def reply(self, body: bytes) -> None:
        """Answers OK with the serialized message. Raises RuntimeError when the call has been answered."""
    def fail(self, code: int, message: str) -> None:
        """Answers with a code and a text (cut at 1024 bytes). Raises RuntimeError when the call has been answered."""

class NativeServer:
    """gRPC and REST on I/O threads without the GIL: Predict goes to the engine; of gRPC the methods in `cold` to `take`, others are
    UNIMPLEMENTED; of REST all other requests, with their connections, to `take_rest`."""

    engine: Engine | EchoEngine
    ports: list[int]
    """The port of each address, in their order; 0 for unix sockets."""
    ignored_arguments: list[str]
    """Channel arguments that mean nothing here, for a log line."""
    def __init__(
        self,
        engine: Engine | EchoEngine,
        *,
        addresses: Sequence[str],
        io_threads: int,
        cold: Sequence[str],
        max_message_bytes: int,
        byte_budget: int,
        max_connections: int,
        arguments: Mapping[str, int | str],
        processors: int = 0,
        start: bool = True,
    ) -> None:
        """Listens and, unless told not to start, serves when this returns. `engine` must be open, and stay so until `close`.

        addresses: "127.0.0.1:0", "[::]:8500" (IPv4 too), "unix:/path" (removed by `close`). cold: full method paths.
        byte_budget: request bytes held by the process beyond which windows are withheld. arguments: gRPC channel arguments
        (docs/native.md). processors: how many I/O threads and runners share (0: as many as I/O threads). Raises TfsError: UNAVAILABLE naming the address, INVALID_ARGUMENT naming the argument,
        RESOURCE_EXHAUSTED when threads or descriptors run out."""
    def listen_rest(
        self,
        sock: socket.socket,
        *,
        status_lines: Sequence[bytes],
        headers: bytes,
        gzip_headers: bytes,
        gzip_min_bytes: int,
        max_body_bytes: int,
        timeout_ns: int,
        max_connections: int,
        write_stall_ns: int,
        keep_alive_ns: int,
        silent_ns: int,
    ) -> None:
        """Answers REST Predicts on connections to `sock` (listening, closed by `close`); once, before `start`.

        status_lines: by code, 0 to 16; they and the headers are whole lines. 0 is no limit: max_body_bytes, timeout_ns (of a call),
        write_stall_ns (of an answer that is not fetched), silent_ns (of a new connection, then Python's). Connections beyond max_connections, here and given to Python together, are given
        to Python to be refused, as are those with requests of another form."""
    def start(self) -> None:
        """Starts the threads, where the constructor was told not to. Raises TfsError RESOURCE_EXHAUSTED."""
    def fileno(self) -> int:
        """Becomes readable when cold calls or REST connections wait: `loop.add_reader(server.fileno(), …take…)`."""
    def take_rest(self) -> list[tuple[int, bytes, bool]]:
        """REST connections that Python takes over, oldest first: the descriptor (the caller's to close), what was read and not answered,
        whether it is one too many. `rest_closed` tells their end. After `take`, which empties the descriptor. Never blocks."""
    def rest_closed(self) -> None:
        """One of those is closed. Any thread."""
    def take(self) -> list[ColdCall]:
        """The cold calls that wait, oldest first. Never blocks. Any thread."""
    def drain(self, grace_s: float) -> None:
        """Stops accepting, asks every connection to leave (GOAWAY) and returns at once; after `grace_s` what is left is cut off,
        its calls cancelled. A second call only moves the end. Any thread."""
    def wait_drained(self, timeout_s: float) -> bool:
        """Waits (without the GIL) until no connection is open; False when the time is up."""
    def close(self) -> None:
        """Cuts off what is left, joins all threads, removes unix sockets. Idempotent. Not from a `done` callback."""
    def stats(self) -> dict[str, int]:
        """Counters since start (accepted, refused_connections, closed, streams, answered, errors, resets, evicted, inlined,
        handed_over, kept calls, moved REST connections) and now (connections, rest_connections with Python's, fewest_connections of a thread,
        request_bytes, cold_calls). Any thread."""

class EchoEngine:
    """Stands in for Engine in the tests of the native transport: the answer is the request, "hold…" waits for answer_held,
    "fail:CODE:text" is that error, "big:N" N bytes."""

    held: int
    live: int
    def answer_held(self) -> int:
        """Answers the held calls on the calling thread; returns how many there were."""

def _probe_http2_feed(
    pieces: Sequence[bytes], *, max_message_bytes: int = ..., byte_budget: int = ...
) -> bytes:
    """Tests: feeds bytes to a connection without a socket over an EchoEngine; returns what the server wrote.

    Raises AssertionError when a ticket or a byte of the budget is left over."""

def _probe_http1_feed(pieces: Sequence[bytes], *, max_body_bytes: int = ...) -> tuple[bytes, bytes | None]:
    """Tests: the same for a REST connection; what the server wrote and, if Python was to take over, the bytes for it.

    The answer to a request for model m is `m:` and its body, its status 200 + the code; the one header is `a: b`, with gzip (from 4096
    bytes on) also `c: d`."""

class _ProbePieces:
    """Tests: the allocator of nghttp2's sessions. A piece is named by a number, NULL by one that is not held; AssertionError when a piece
    was overwritten, MemoryError when there is none."""

    def malloc(self, number: int, size: int) -> None: ...
    def calloc(self, number: int, count: int, size: int) -> None: ...
    def realloc(self, number: int, size: int) -> None: ...
    def free(self, number: int) -> None: ...
    def kept(self) -> int: ...
    def most(self) -> int: ...

# -- the batcher's test bench (_fast/batch_probe.pxi, _fast/batch_bench.pxi). Needs fake_runtime() first.

class _ProbeBatcher:
    """One batched servable stepped by hand. `signatures`: name -> (inputs, outputs, number of its first graph tensor).
    `session(feeds)` gets and returns lists of (dtype, shape, bytes or list of strings), or raises TfsError. Times are nanoseconds."""

    threads: BatchThreads
    answers: dict[int, list[Any]]
    def __init__(
        self,
        parameters: dict[str, Any],
        session: Callable[[list[Any]], list[Any]],
        signatures: dict[str, tuple[int, int, int]] | None = None,
        traits: int = ...,
        model: str = ...,
    ) -> None: ...
    def set_default(
        self, signature: str, index: int, dtype: int, shape: tuple[int, ...], data: Any
    ) -> None: ...
    def update(self, **parameters: Any) -> None: ...
    def submit(
        self,
        now: int,
        inputs: list[Any],
        signature: str = ...,
        deadline: int | None = None,
        outputs: list[int] | None = None,
    ) -> int: ...
    def cancel(self, call: int) -> None: ...
    def expire(self, call: int) -> None: ...
    def drop(self, call: int) -> None: ...
    def due(self) -> int: ...
    def step(self, now: int, run_ns: int = 0) -> list[int] | None: ...
    def state(self) -> dict[str, int]: ...

def _bench_batcher(
    threads: BatchThreads,
    parameters: dict[str, Any],
    calls: int,
    producers: int = 1,
    in_flight: int = 64,
    run_us: int = 0,
    cancel_every: int = 0,
    apart: bool = False,
) -> dict[str, int]:
    """Sends `calls` calls of one float from C threads, `in_flight` at a time in all; finished, wrong, cancelled, runs, waiting_ns. Blocks
    without the GIL. `cancel_every`: each n-th call is cancelled right after it was sent. `apart`: measures waiting_ns."""
