"""Classify, Regress and MultiInference: serialized Examples in, results out.

Owns: the three RPCs and their replay from warm-up records.  The Examples stay the bytes that the client sent: they go to the graph
as one string tensor, and a context is merged by concatenation (protobuf's own rule).  A request becomes an `Asked` (what to run and
how to finish); the asyncio service and the blocking replay differ only in how they run it.
Must not know: grpc, HTTP.  `ExampleService` belongs to the loop of its mailbox; `replay` blocks and wants a thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
)
from tfs.errors import InvalidArgument, NotFound, TfsError, Unimplemented
from tfs.service import signatures, wire
from tfs.service.parsing import parse, resolve
from tfs.service.waiting import run_engine

_DT_STRING = 7


@dataclass(frozen=True, slots=True)
class Asked:
    """What to run, and how its outputs become the response message."""

    request: bytes  # a serialized PredictRequest
    finish: Callable[[Outputs], Any]


@dataclass(frozen=True, slots=True)
class _Single:
    """What differs between Classify and Regress."""

    request_class: str
    response_class: str
    check: Callable[[Any, bool], list[str]]
    result: Callable[[signatures.Tensors, list[str], int], Any]


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
        lambda tensors, _wanted, examples: signatures.regressions(tensors, examples),
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
        request = parse("MultiInferenceRequest", body)
        examples = example_bytes(body)
        spec = request.tasks[0].model_spec if request.tasks else messages.ModelSpec()

        def ask(servable: LoadedServable) -> Asked:
            asked = ask_multi(servable, request.tasks, examples, self._check)

            def finish(outputs: Outputs) -> Any:
                self._count_examples(spec.name, len(examples))
                return asked.finish(outputs)

            return Asked(asked.request, finish)

        response = await self._run(METHOD_MULTI, spec, timeout_ns, ENTRY_GRPC, ask)
        return bytes(response.SerializeToString())

    async def single(
        self, method: int, spec: Any, examples: Sequence[bytes], timeout_ns: int | None, entry: int
    ) -> Any:
        """Classify or Regress (`method`) of serialized Examples; the response message. Counts nothing."""
        return await self._run(
            method,
            spec,
            timeout_ns,
            entry,
            lambda servable: ask_single(method, servable, spec, examples, self._check),
        )

    async def _single_bytes(self, method: int, body: bytes, timeout_ns: int | None) -> bytes:
        request = parse(_SINGLE[method].request_class, body)
        started, code = time.monotonic_ns(), 0
        try:
            if not request.HasField("model_spec"):
                raise InvalidArgument("Missing ModelSpec")
            response = await self.single(
                method, request.model_spec, example_bytes(body), timeout_ns, ENTRY_GRPC
            )
            return bytes(response.SerializeToString())
        except TfsError as error:
            code = int(error.code)
            raise
        finally:
            elapsed = time.monotonic_ns() - started
            self._engine.count_request(request.model_spec.name, method, ENTRY_GRPC, code, elapsed)

    async def _run(
        self,
        method: int,
        spec: Any,
        timeout_ns: int | None,
        entry: int,
        ask: Callable[[LoadedServable], Asked],
    ) -> Any:
        """Resolves, asks, runs that very version and finishes; again when the version left between the two."""
        while True:
            servable = resolve(self._engine, spec)
            asked = ask(servable)
            try:
                outputs = await run_engine(
                    self._engine, self._mailbox, asked.request, timeout_ns, method=method, entry=entry
                )
            except NotFound:
                if resolve(self._engine, spec).version == servable.version:
                    raise
                continue
            return asked.finish(outputs)


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
    method, examples = methods[kind], example_bytes(request.SerializeToString())
    if method == METHOD_MULTI:
        asked = ask_multi(servable, request.tasks, examples, check_method=False)
    else:
        asked = ask_single(method, servable, request.model_spec, examples, check_method=False)
    asked.finish(engine.run_on(servable, asked.request, METHOD_WARMUP))


def ask_single(
    method: int, servable: LoadedServable, spec: Any, examples: Sequence[bytes], check_method: bool
) -> Asked:
    """A Classify or Regress on `servable`; raises InvalidArgument."""
    kind = _SINGLE[method]
    name = spec.signature_name or signatures.DEFAULT_SIGNATURE
    serialized = servable.signature_defs.get(name)
    if serialized is None:
        raise InvalidArgument(f"No signature was found with the name: {name}")
    signature = messages.SignatureDef.FromString(serialized)
    wanted = kind.check(signature, check_method)
    request = _predict_request(servable, name, [signatures.INPUTS], examples)
    if len(wanted) < len(signature.outputs):
        request.output_filter.extend(wanted)

    def finish(outputs: Outputs) -> Any:
        response = getattr(messages, kind.response_class)()
        response.result.CopyFrom(kind.result(outputs, wanted, len(examples)))
        _fill_spec(response.model_spec, spec.name, outputs.version, name)
        return response

    return Asked(request.SerializeToString(), finish)


def ask_multi(
    servable: LoadedServable, tasks: Sequence[Any], examples: Sequence[bytes], check_method: bool
) -> Asked:
    """All `tasks` (InferenceTask messages) in one run on `servable`; raises InvalidArgument or Unimplemented."""
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
    feeds = sorted({signature.inputs[signatures.INPUTS].name for _, signature, _ in chosen.values()})
    request = _predict_request(servable, servable.define_union(list(chosen)), feeds, examples)

    def finish(outputs: Outputs) -> Any:
        response = messages.MultiInferenceResponse()
        for name, (method, signature, wanted) in chosen.items():
            names = {alias: signature.outputs[alias].name for alias in wanted}
            result = _SINGLE[method].result(signatures.Renamed(outputs, names), wanted, len(examples))
            one = response.results.add()
            _fill_spec(one.model_spec, tasks[0].model_spec.name, outputs.version, name)
            target = one.classification_result if method == METHOD_CLASSIFY else one.regression_result
            target.CopyFrom(result)
        return response

    return Asked(request.SerializeToString(), finish)


def _check_task(task: Any, model: str, signature: str, chosen: dict[str, Any]) -> None:
    if not task.model_spec.name:
        raise InvalidArgument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != model:
        raise InvalidArgument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if signature in chosen:
        raise InvalidArgument(f"Duplicate evaluation of signature: {signature}")


def example_bytes(body: bytes) -> list[bytes]:
    """The serialized Examples of a request whose field 2 is an Input, each with the context before it."""
    merged = b"".join(payload for number, payload in wire.fields(body) if number == 2)
    parsed = messages.SerializedInput.FromString(merged)
    if parsed.WhichOneof("kind") == "example_list_with_context":
        listed = parsed.example_list_with_context
        return [listed.context + example for example in listed.examples]
    return list(parsed.example_list.examples)


def _predict_request(
    servable: LoadedServable, signature: str, aliases: Sequence[str], examples: Sequence[bytes]
) -> Any:
    """A PredictRequest for that version which feeds the same string vector to every alias."""
    if not examples:
        raise InvalidArgument("Input is empty.")
    request = messages.PredictRequest()
    _fill_spec(request.model_spec, servable.name, servable.version, signature)
    for alias in aliases:
        tensor = request.inputs[alias]
        tensor.dtype = _DT_STRING
        tensor.tensor_shape.dim.add().size = len(examples)
        tensor.string_val.extend(examples)
    return request


def _fill_spec(spec: Any, name: str, version: int, signature: str) -> None:
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature
