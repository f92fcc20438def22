"""Classify, Regress and MultiInference: serialized Examples in, results out.

Owns: the three RPCs and their replay from warm-up records.  The Examples stay the bytes that the client sent: they go to the graph
as one string tensor, and a context is merged by concatenation (protobuf's own rule).  A request becomes an `Asked` (what to run and
how to finish); the asyncio service and the blocking replay differ only in how they run it.  What grows with the request is done on a
thread when the request is large, and there by code that lets go of the GIL, so that the loop goes on answering.
Must not know: grpc, HTTP.  `ExampleService` belongs to the loop of its mailbox; `replay` blocks and wants a thread of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tfs import messages
from tfs._fastpath import (
    ENTRY_GRPC,
    METHOD_CLASSIFY,
    METHOD_MULTI,
    METHOD_REGRESS,
    METHOD_WARMUP,
    Engine,
    LoadedServable,
    Mailbox,
    Outputs,
    take_examples,
)
from tfs.errors import InvalidArgument, NotFound, TfsError, Unimplemented
from tfs.service import signatures, wire
from tfs.service.parsing import parse, resolve
from tfs.service.waiting import run_engine

_DT_STRING = 7
# Field numbers of PredictRequest and of an entry of its map.
_INPUTS, _ENTRY_KEY, _ENTRY_VALUE = 2, 1, 2
# From here on requests are taken apart, and answers put together, on a thread: below, the hand-over costs more than the work.
THREAD_BYTES: Final = 1 << 16

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Examples:
    """Serialized Examples as the `string_val` fields of a TensorProto, and how many."""

    values: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What to run (as a rule one run), and how the outputs become the response message."""

    requests: Sequence[bytes]  # serialized PredictRequests
    finish: Callable[[Sequence[Outputs]], Any]


@dataclass(frozen=True, slots=True)
class _Single:
    """What differs between Classify and Regress."""

    request_class: str
    response_class: str
    check: Callable[[Any, bool], list[str]]
    fill: Callable[[Any, signatures.Tensors, list[str], int], None]  # fills the message of the results


_SINGLE = {
    METHOD_CLASSIFY: _Single(
        "ClassificationRequest",
        "ClassificationResponse",
        signatures.check_classify,
        signatures.classifications,
    ),
    METHOD_REGRESS: _Single(
        "RegressionRequest",
        "RegressionResponse",
        signatures.check_regress,
        lambda result, tensors, _wanted, examples: signatures.regressions(result, tensors, examples),
    ),
}
_TASKS = {signatures.CLASSIFY_METHOD: METHOD_CLASSIFY, signatures.REGRESS_METHOD: METHOD_REGRESS}


class ExampleService:
    """The three RPCs over one engine; all methods on the mailbox's loop."""

    def __init__(
        self,
        engine: Engine,
        mailbox: Mailbox,
        *,
        check_method_names: bool = False,
        count_examples: Callable[[str, int], None] = lambda model, examples: None,
    ) -> None:
        self._engine, self._mailbox = engine, mailbox
        self._check = check_method_names
        self._count_examples = count_examples

    async def classify(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized ClassificationRequest -> ClassificationResponse."""
        return await self._single_bytes(METHOD_CLASSIFY, body, timeout_ns)

    async def regress(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized RegressionRequest -> RegressionResponse."""
        return await self._single_bytes(METHOD_REGRESS, body, timeout_ns)

    async def multi_inference(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized MultiInferenceRequest -> MultiInferenceResponse."""
        request, examples = await _apart(len(body), take_apart, "MultiInferenceRequest", body)
        spec = request.tasks[0].model_spec if request.tasks else messages.ModelSpec()

        def ask(servable: LoadedServable) -> Asked:
            asked = ask_multi(servable, request.tasks, examples, self._check)

            def finish(outputs: Sequence[Outputs]) -> bytes:
                self._count_examples(spec.name, examples.count)
                return _serialized(asked.finish(outputs))

            return Asked(asked.requests, finish)

        return await self._run(METHOD_MULTI, spec, len(body), timeout_ns, ENTRY_GRPC, ask)

    async def single(  # noqa: PLR0917 (a call's facts, all needed)
        self,
        method: int,
        spec: Any,
        examples: Examples,
        timeout_ns: int | None,
        entry: int,
        encode: Callable[[Any], bytes],
    ) -> bytes:
        """Classify or Regress (`method`) of Examples; the response message as `encode` puts it. Counts nothing."""

        def ask(servable: LoadedServable) -> Asked:
            asked = ask_single(method, servable, spec, examples, self._check)
            return Asked(asked.requests, lambda outputs: encode(asked.finish(outputs)))

        return await self._run(method, spec, len(examples.values), timeout_ns, entry, ask)

    async def _single_bytes(self, method: int, body: bytes, timeout_ns: int | None) -> bytes:
        started, code = time.monotonic_ns(), 0
        request, examples = await _apart(len(body), take_apart, _SINGLE[method].request_class, body)
        try:
            if not request.HasField("model_spec"):
                raise InvalidArgument("Missing ModelSpec")
            left_ns = _left(timeout_ns, started)
            return await self.single(method, request.model_spec, examples, left_ns, ENTRY_GRPC, _serialized)
        except TfsError as error:
            code = int(error.code)
            raise
        finally:
            elapsed = time.monotonic_ns() - started
            self._engine.count_request(request.model_spec.name, method, ENTRY_GRPC, code, elapsed)

    async def _run(  # noqa: PLR0917 (a call's facts, all needed)
        self,
        method: int,
        spec: Any,
        size: int,
        timeout_ns: int | None,
        entry: int,
        ask: Callable[[LoadedServable], Asked],
    ) -> bytes:
        """Resolves, asks, runs that very version and finishes; again when the version left between the two. `size`: of the request."""
        started = time.monotonic_ns()
        while True:
            servable = resolve(self._engine, spec)
            asked: Asked = await _apart(size, ask, servable)
            try:
                outputs = [
                    await run_engine(
                        self._engine,
                        self._mailbox,
                        request,
                        _left(timeout_ns, started),
                        method=method,
                        entry=entry,
                    )
                    for request in asked.requests
                ]
            except NotFound:
                if resolve(self._engine, spec).version == servable.version:
                    raise
                continue
            answer: bytes = await _apart(size, asked.finish, outputs)
            return answer


async def _apart(size: int, work: Callable[..., _Made], *arguments: Any) -> _Made:
    """Here when little, on a thread when much is to be done."""
    if size < THREAD_BYTES:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _left(timeout_ns: int | None, started_ns: int) -> int | None:
    """What is left of a time limit that began at `started_ns`."""
    return None if timeout_ns is None else max(0, timeout_ns - (time.monotonic_ns() - started_ns))


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def replay(engine: Engine, servable: LoadedServable, prediction_log: Any) -> None:
    """Runs one warm-up record (a PredictionLog message) on `servable`, published or not, and drops the answer.

    Blocks; any thread but the loop's.  Raises what the request would get, Unimplemented for a kind that warm-up does not know."""
    kind = prediction_log.WhichOneof("log_type")
    if kind is None:
        return
    request = getattr(prediction_log, kind).request
    if kind == "predict_log":
        engine.run_on(servable, request.SerializeToString(), METHOD_WARMUP)
        return
    methods = {
        "classify_log": METHOD_CLASSIFY,
        "regress_log": METHOD_REGRESS,
        "multi_inference_log": METHOD_MULTI,
    }
    if kind not in methods:
        number = prediction_log.DESCRIPTOR.fields_by_name[kind].number
        raise Unimplemented(f"Unsupported log_type for warmup: {number}")
    _, values, count = take_examples(request.SerializeToString())
    method, examples = methods[kind], Examples(values, count)
    if method == METHOD_MULTI:
        asked = ask_multi(servable, request.tasks, examples, check_method=False)
    else:
        asked = ask_single(method, servable, request.model_spec, examples, check_method=False)
    asked.finish([engine.run_on(servable, one, METHOD_WARMUP) for one in asked.requests])


def ask_single(
    method: int, servable: LoadedServable, spec: Any, examples: Examples, check_method: bool
) -> Asked:
    """A Classify or Regress on `servable`; raises InvalidArgument."""
    kind = _SINGLE[method]
    name = spec.signature_name or signatures.DEFAULT_SIGNATURE
    serialized = servable.signature_defs.get(name)
    if serialized is None:
        raise InvalidArgument(f"No signature was found with the name: {name}")
    signature = messages.SignatureDef.FromString(serialized)
    wanted = kind.check(signature, check_method)
    only = wanted if len(wanted) < len(signature.outputs) else ()
    request = _predict_request(servable, name, [signatures.INPUTS], examples, only)

    def finish(outputs: Sequence[Outputs]) -> Any:
        response = getattr(messages, kind.response_class)()
        kind.fill(response.result, outputs[0], wanted, examples.count)
        _fill_spec(response.model_spec, spec.name, outputs[0].version, name)
        return response

    return Asked([request], finish)


def ask_multi(
    servable: LoadedServable, tasks: Sequence[Any], examples: Examples, check_method: bool
) -> Asked:
    """All `tasks` (InferenceTask messages) in one run on `servable`; raises InvalidArgument or Unimplemented.

    One run for each task when the servable makes no more unions of signatures."""
    chosen: dict[str, tuple[int, Any, list[str]]] = {}
    for task in tasks:
        name = task.model_spec.signature_name or signatures.DEFAULT_SIGNATURE
        _check_task(task, tasks[0].model_spec.name, name, chosen)
        serialized = servable.signature_defs.get(name)
        if serialized is None:
            raise InvalidArgument(f"Requested signature not found in model graph: {name}")
        method = _TASKS.get(task.method_name)
        if method is None:
            raise Unimplemented(f"Unsupported signature method_name: {task.method_name}")
        signature = messages.SignatureDef.FromString(serialized)
        chosen[name] = method, signature, _SINGLE[method].check(signature, check_method)
    union = servable.define_union(list(chosen))
    if union is None:
        requests = [
            _predict_request(servable, name, [signatures.INPUTS], examples, wanted)
            for name, (_, _, wanted) in chosen.items()
        ]
    else:
        feeds = sorted({signature.inputs[signatures.INPUTS].name for _, signature, _ in chosen.values()})
        requests = [_predict_request(servable, union, feeds, examples)]

    def finish(outputs: Sequence[Outputs]) -> Any:
        response = messages.MultiInferenceResponse()
        for at, (name, (method, signature, wanted)) in enumerate(chosen.items()):
            names = {alias: signature.outputs[alias].name for alias in wanted}
            tensors = outputs[at] if union is None else signatures.Renamed(outputs[0], names)
            one = response.results.add()
            _fill_spec(one.model_spec, tasks[0].model_spec.name, outputs[0].version, name)
            target = one.classification_result if method == METHOD_CLASSIFY else one.regression_result
            _SINGLE[method].fill(target, tensors, wanted, examples.count)
        return response

    return Asked(requests, finish)


def _check_task(task: Any, model: str, signature: str, chosen: dict[str, Any]) -> None:
    if not task.model_spec.name:
        raise InvalidArgument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != model:
        raise InvalidArgument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if signature in chosen:
        raise InvalidArgument(f"Duplicate evaluation of signature: {signature}")


def take_apart(request_class: str, body: bytes) -> tuple[Any, Examples]:
    """A request whose field 2 is an Input: the message of that class without it, and the Examples, each with the context before it.

    Raises Internal with the reference's empty text for bytes that are no such request. Any thread."""
    rest, values, count = take_examples(body)
    return parse(request_class, rest), Examples(values, count)


def pack(examples: Sequence[bytes]) -> Examples:
    """Serialized Examples as `take_apart` gives a request's."""
    return Examples(messages.TensorProto(string_val=examples).SerializeToString(), len(examples))


def _predict_request(
    servable: LoadedServable,
    signature: str,
    aliases: Sequence[str],
    examples: Examples,
    output_filter: Sequence[str] = (),
) -> bytes:
    """A serialized PredictRequest for that version which feeds the same string vector to every alias."""
    if not examples.count:
        raise InvalidArgument("Input is empty.")
    request = messages.PredictRequest(output_filter=output_filter)
    _fill_spec(request.model_spec, servable.name, servable.version, signature)
    tensor = messages.TensorProto(dtype=_DT_STRING)
    tensor.tensor_shape.dim.add().size = examples.count
    tensor_head = tensor.SerializeToString()
    parts = [request.SerializeToString()]
    for alias in (
        aliases
    ):  # entries of the map `inputs`, put together by hand: no message holds the Examples once more
        key, size = alias.encode(), len(tensor_head) + len(examples.values)
        entry = wire.head(_ENTRY_KEY, len(key)) + key + wire.head(_ENTRY_VALUE, size)
        parts += [wire.head(_INPUTS, len(entry) + size), entry, tensor_head, examples.values]
    return b"".join(parts)


def _fill_spec(spec: Any, name: str, version: int, signature: str) -> None:
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature
