"""Classify, Regress and MultiInference against a scripted engine: what is run, how outputs become results, every refusal."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from fake_core import FakeEngine, FakeMailbox, FakeOutputs, FakeServable

from tfs import messages
from tfs._fastpath import METHOD_CLASSIFY, METHOD_MULTI, METHOD_REGRESS, METHOD_WARMUP
from tfs.errors import Code, NotFound, TfsError
from tfs.service.examples import ExampleService, replay, take_apart

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def signature(inputs: list[str], outputs: list[str], method: str = CLASSIFY) -> bytes:
    made = messages.SignatureDef(method_name=method)
    for alias in inputs:
        made.inputs[alias].name = "example:0"
    for alias in outputs:
        made.outputs[alias].name = f"{alias}_tensor:0"
    return bytes(made.SerializeToString())


SIGNATURES = {
    "serving_default": signature(["inputs"], ["classes", "scores"]),
    "scores": signature(["inputs"], ["scores"]),
    "classes": signature(["inputs"], ["classes"]),
    "scores_and_more": signature(["inputs"], ["scores", "more"]),
    "three": signature(["inputs"], ["classes", "scores", "more"]),
    "two_inputs": signature(["inputs", "more"], ["scores"]),
    "other_input": signature(["examples"], ["scores"]),
    "other_outputs": signature(["inputs"], ["a", "b"]),
    "regress": signature(["inputs"], ["outputs"], REGRESS),
    "regress_two": signature(["inputs"], ["outputs", "more"], REGRESS),
    "regress_key": signature(["inputs"], ["value"], REGRESS),
}


def example(value: float) -> Any:
    made = messages.Example()
    made.features.feature["x"].float_list.value.append(value)
    return made


def request(kind: str, name: str = "", model: str = "m", count: int = 2) -> Any:
    made = getattr(messages, kind)()
    made.model_spec.name = model
    made.model_spec.signature_name = name
    made.input.example_list.examples.extend(example(float(i)) for i in range(count))
    return made


def service(outputs: Any = None, check: bool = False) -> tuple[ExampleService, FakeEngine]:
    engine: Any = FakeEngine([FakeServable("m", 3, SIGNATURES)])
    engine.outputs = outputs
    mailbox: Any = FakeMailbox()
    return ExampleService(engine, mailbox, check_method_names=check), engine


def scores(rows: int = 2, columns: int = 3, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.arange(rows * columns, dtype=dtype).reshape(rows, columns)


def labels(rows: int = 2, columns: int = 3) -> tuple[tuple[int, ...], list[bytes]]:
    return (rows, columns), [b"l%d" % i for i in range(rows * columns)]


def run(coroutine: Any) -> bytes:
    return bytes(asyncio.run(coroutine))


def refusal(coroutine: Any) -> tuple[Code, str]:
    with pytest.raises(TfsError) as raised:
        asyncio.run(coroutine)
    return raised.value.code, raised.value.message


def test_classify_feeds_the_examples_and_prints_classes() -> None:
    served, engine = service(FakeOutputs({"classes": labels(), "scores": scores()}, version=3))
    asked = request("ClassificationRequest")
    answer = messages.ClassificationResponse.FromString(
        run(served.classify(asked.SerializeToString(), 5_000_000_000))
    )
    assert [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications] == [
        [("l0", 0.0), ("l1", 1.0), ("l2", 2.0)],
        [("l3", 3.0), ("l4", 4.0), ("l5", 5.0)],
    ]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 3, "serving_default")
    (kind, body, timeout_ns, method, _) = engine.asked[0]
    assert (kind, method) == ("run", METHOD_CLASSIFY)
    assert 4_000_000_000 < timeout_ns <= 5_000_000_000
    sent = messages.PredictRequest.FromString(body)
    assert (sent.model_spec.name, sent.model_spec.version.value) == ("m", 3)
    assert list(sent.inputs) == ["inputs"]
    assert list(sent.inputs["inputs"].string_val) == [
        example(0.0).SerializeToString(),
        example(1.0).SerializeToString(),
    ]
    assert [one.size for one in sent.inputs["inputs"].tensor_shape.dim] == [2]
    assert engine.counted == [("m", METHOD_CLASSIFY, 0, 0)]


@pytest.mark.parametrize(
    ("name", "tensors", "want"),
    [
        ("scores", {"scores": scores()}, [("", 0.0), ("", 1.0), ("", 2.0)]),
        ("classes", {"classes": labels()}, [("l0", 0.0), ("l1", 0.0), ("l2", 0.0)]),
        ("scores_and_more", {"scores": scores()}, [("", 0.0), ("", 1.0), ("", 2.0)]),
        ("scores", {"scores": scores(2, 0)}, []),
        ("classes", {"classes": ((2, 1), [b"\xff", b"b"])}, [("\ufffd", 0.0)]),
    ],
)
def test_classify_with_fewer_outputs(name: str, tensors: Any, want: list[Any]) -> None:
    served, engine = service(FakeOutputs(tensors))
    body = run(served.classify(request("ClassificationRequest", name).SerializeToString(), None))
    answer = messages.ClassificationResponse.FromString(body)
    assert [(one.label, one.score) for one in answer.result.classifications[0].classes] == want
    sent = messages.PredictRequest.FromString(engine.asked[0][1])
    assert list(sent.output_filter) == (["scores"] if name == "scores_and_more" else [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nope", "No signature was found with the name: nope"),
        ("two_inputs", "Expected one input Tensor."),
        ("three", "Expected one or two output Tensors, found 3"),
        ("other_input", "No classification inputs found in SignatureDef: "),
        (
            "other_outputs",
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: ',
        ),
    ],
)
def test_classify_refuses_signatures(name: str, text: str) -> None:
    served, engine = service()
    code, message = refusal(served.classify(request("ClassificationRequest", name).SerializeToString(), None))
    assert code is Code.INVALID_ARGUMENT
    assert message.startswith(text)
    assert engine.asked == []
    assert engine.counted == [("m", METHOD_CLASSIFY, 0, 3)]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"classes": ((2,), [b"a", b"b"])}, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ({"classes": scores()}, "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ({"classes": labels(3)}, "Expected classes output batch size of 2. Got: 3"),
        (
            {"scores": scores().reshape(2, 3, 1)},
            "Expected Tensor shape: [batch_size num_classes] but got [2,3,1]",
        ),
        ({"scores": np.float32(1).reshape(())}, "Expected Tensor shape: [batch_size num_classes] but got []"),
        ({"scores": scores(dtype=np.float64)}, "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ({"scores": scores(1)}, "Expected scores output batch size of 2. Got: 1"),
        ({"scores": scores(2, 2)}, "Tensors class and score should match in dim_size(1). Got 3 vs. 2"),
    ],
)
def test_classify_refuses_outputs(tensors: Any, text: str) -> None:
    served, engine = service(FakeOutputs({"classes": labels(), "scores": scores(), **tensors}))
    body = request("ClassificationRequest").SerializeToString()
    assert refusal(served.classify(body, None)) == (Code.INVALID_ARGUMENT, text)
    assert engine.counted == [("m", METHOD_CLASSIFY, 0, 3)]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_regress(shape: tuple[int, ...]) -> None:
    served, engine = service(FakeOutputs({"outputs": np.array([1.5, -2.5], np.float32).reshape(shape)}, 3))
    body = run(served.regress(request("RegressionRequest", "regress").SerializeToString(), None))
    answer = messages.RegressionResponse.FromString(body)
    assert [one.value for one in answer.result.regressions] == [1.5, -2.5]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (3, "regress")
    assert engine.asked[0][3] == METHOD_REGRESS


@pytest.mark.parametrize(
    ("name", "tensor", "text"),
    [
        ("two_inputs", None, "Expected one input Tensor."),
        ("regress_two", None, "Expected one output Tensor."),
        ("other_input", None, "No regression inputs found in SignatureDef: "),
        ("regress_key", None, "No regression outputs found in SignatureDef: "),
        (
            "regress",
            scores(2, 2),
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        ("regress", scores(4, 1), "Input batch size did not match output batch size: 2 vs. 4"),
        ("regress", scores(2, 1, np.int32), "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
    ],
)
def test_regress_refuses(name: str, tensor: Any, text: str) -> None:
    served, _ = service(FakeOutputs({"outputs": tensor}))
    code, message = refusal(served.regress(request("RegressionRequest", name).SerializeToString(), None))
    assert code is Code.INVALID_ARGUMENT
    assert message.startswith(text)


@pytest.mark.parametrize(
    ("rpc", "kind"), [("classify", "ClassificationRequest"), ("regress", "RegressionRequest")]
)
def test_both_refuse_requests(rpc: str, kind: str) -> None:
    served, engine = service()
    method = getattr(served, rpc)
    empty = request(kind, "regress" if rpc == "regress" else "", count=0)
    assert refusal(method(empty.SerializeToString(), None)) == (Code.INVALID_ARGUMENT, "Input is empty.")
    empty.ClearField("input")
    assert refusal(method(empty.SerializeToString(), None)) == (Code.INVALID_ARGUMENT, "Input is empty.")
    empty.model_spec.Clear()
    empty.model_spec.SetInParent()
    assert refusal(method(empty.SerializeToString(), None))[1] == "ModelSpec has no name specified."
    assert refusal(method(b"", None)) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")
    assert refusal(method(request(kind, model="no").SerializeToString(), None))[0] is Code.NOT_FOUND
    assert engine.counted[-1][0] == "no"
    not_an_example = request(kind, count=0).SerializeToString() + b"\x12\x05\x0a\x03\x0a\x01\xff"
    assert refusal(method(not_an_example, None)) == (Code.INTERNAL, "")


def test_a_context_comes_before_each_example() -> None:
    made = messages.ClassificationRequest()
    listed = made.input.example_list_with_context
    listed.context.CopyFrom(example(9.0))
    listed.examples.extend([example(1.0), messages.Example()])
    context = example(9.0).SerializeToString()
    assert example_bytes(made.SerializeToString()) == [context + example(1.0).SerializeToString(), context]


def example_bytes(body: bytes) -> list[bytes]:
    _, examples = take_apart("ClassificationRequest", body)
    values = list(messages.TensorProto.FromString(examples.values).string_val)
    assert len(values) == examples.count
    return values


def test_an_input_in_two_pieces_is_merged() -> None:
    first, second = request("ClassificationRequest", count=1), request("ClassificationRequest", count=2)
    assert len(example_bytes(first.SerializeToString() + second.SerializeToString())) == 3


def test_the_version_may_leave_between_resolve_and_run() -> None:
    served, engine = service(FakeOutputs({"scores": scores()}, version=4))
    engine.servables.append(FakeServable("m", 2, SIGNATURES))
    give, runs = engine.run, []

    def run_once(*arguments: Any) -> Any:
        runs.append(messages.PredictRequest.FromString(arguments[1]).model_spec.version.value)
        if len(runs) == 1:
            engine.servables.pop(0)
            raise NotFound("Servable not found for request: Specific(m, 3)")
        return give(*arguments)

    engine.run = run_once  # type: ignore[method-assign]
    run(served.classify(request("ClassificationRequest", "scores").SerializeToString(), None))
    assert runs == [3, 2]


# --- MultiInference ------------------------------------------------------------------------------------------------------------


def multi(*tasks: tuple[str, str, str], count: int = 2) -> Any:
    made = messages.MultiInferenceRequest()
    for model, name, method in tasks:
        task = made.tasks.add()
        task.model_spec.name, task.model_spec.signature_name, task.method_name = model, name, method
    made.input.example_list.examples.extend(example(float(i)) for i in range(count))
    return made


def test_multi_inference_is_one_run() -> None:
    regression = np.array([7.0, 8.0], np.float32)
    served, engine = service(FakeOutputs({"scores_tensor:0": scores(), "outputs_tensor:0": regression}, 3))
    asked = multi(("m", "regress", REGRESS), ("m", "scores", CLASSIFY))
    answer = messages.MultiInferenceResponse.FromString(
        run(served.multi_inference(asked.SerializeToString(), None))
    )
    assert [one.value for one in answer.results[0].regression_result.regressions] == [7.0, 8.0]
    assert answer.results[1].classification_result.classifications[1].classes[2].score == 5.0
    assert [one.model_spec.signature_name for one in answer.results] == ["regress", "scores"]
    assert [one.model_spec.version.value for one in answer.results] == [3, 3]
    assert engine.servables[0].unions == [["regress", "scores"]]
    (_, body, _, method, _) = engine.asked[0]
    sent = messages.PredictRequest.FromString(body)
    assert (len(engine.asked), method, sent.model_spec.signature_name) == (
        1,
        METHOD_MULTI,
        "union:regress+scores",
    )
    assert list(sent.inputs) == ["example:0"]
    assert engine.counted == []


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        ([], Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        ([("", "scores", CLASSIFY)], Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (
            [("m", "scores", CLASSIFY), ("", "regress", REGRESS)],
            Code.INVALID_ARGUMENT,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("m", "scores", CLASSIFY), ("n", "regress", REGRESS)],
            Code.INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("m", "", CLASSIFY), ("m", "serving_default", REGRESS)],
            Code.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: serving_default",
        ),
        ([("m", "zz", CLASSIFY)], Code.INVALID_ARGUMENT, "Requested signature not found in model graph: zz"),
        ([("m", "scores", "x/y")], Code.UNIMPLEMENTED, "Unsupported signature method_name: x/y"),
        ([("m", "three", CLASSIFY)], Code.INVALID_ARGUMENT, "Expected one or two output Tensors, found 3"),
        ([("no", "scores", CLASSIFY)], Code.NOT_FOUND, "Servable not found for request: Latest(no)"),
    ],
)
def test_multi_inference_refuses(tasks: list[Any], code: Code, text: str) -> None:
    served, engine = service()
    assert refusal(served.multi_inference(multi(*tasks).SerializeToString(), None)) == (code, text)
    assert engine.asked == []


def test_multi_inference_beyond_the_unions_runs_each_task() -> None:
    """The answer is the same; only the number of runs differs."""
    tensors = {"scores": scores(), "outputs": np.array([7.0, 8.0], np.float32)}
    served, engine = service(FakeOutputs(tensors, 3))
    engine.servables[0].most_unions = 0
    asked = multi(("m", "regress", REGRESS), ("m", "scores_and_more", CLASSIFY))
    answer = messages.MultiInferenceResponse.FromString(
        run(served.multi_inference(asked.SerializeToString(), 10**9))
    )
    assert [one.value for one in answer.results[0].regression_result.regressions] == [7.0, 8.0]
    assert answer.results[1].classification_result.classifications[1].classes[2].score == 5.0
    assert [one.model_spec.signature_name for one in answer.results] == ["regress", "scores_and_more"]
    sent = [messages.PredictRequest.FromString(body) for _, body, *_ in engine.asked]
    assert [
        (one.model_spec.signature_name, one.model_spec.version.value, list(one.output_filter)) for one in sent
    ] == [
        ("regress", 3, ["outputs"]),
        ("scores_and_more", 3, ["scores"]),
    ]
    assert all(0 < timeout_ns <= 10**9 for _, _, timeout_ns, *_ in engine.asked)


def test_multi_inference_without_examples() -> None:
    served, _ = service()
    body = multi(("m", "scores", CLASSIFY), count=0).SerializeToString()
    assert refusal(served.multi_inference(body, None)) == (Code.INVALID_ARGUMENT, "Input is empty.")


def test_method_names_are_checked_when_asked_for() -> None:
    served, _ = service(FakeOutputs({"scores": scores()}), check=True)
    run(served.classify(request("ClassificationRequest", "scores").SerializeToString(), None))
    assert refusal(served.regress(request("RegressionRequest", "scores").SerializeToString(), None))[1] == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify"
    )
    assert refusal(served.classify(request("ClassificationRequest", "regress").SerializeToString(), None))[
        1
    ] == (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/regress"
    )


# --- warm-up -------------------------------------------------------------------------------------------------------------------


def test_replay_runs_each_kind_on_the_servable() -> None:
    engine: Any = FakeEngine()
    servable: Any = FakeServable("fresh", 9, SIGNATURES)
    tensors = {"scores": scores(), "outputs": np.zeros(2, np.float32), "scores_tensor:0": scores()}
    engine.outputs = FakeOutputs(tensors)
    log = messages.PredictionLog()
    replay(engine, servable, log)
    assert engine.asked == []
    log.predict_log.request.model_spec.signature_name = "p"
    replay(engine, servable, log)
    log.classify_log.request.CopyFrom(request("ClassificationRequest", "scores"))
    log.classify_log.request.model_spec.version.value = 200  # no text when it is read as one
    replay(engine, servable, log)
    log.regress_log.request.CopyFrom(request("RegressionRequest", "regress"))
    replay(engine, servable, log)
    log.multi_inference_log.request.CopyFrom(multi(("m", "scores", CLASSIFY)))
    replay(engine, servable, log)
    assert [(kind, name, method) for kind, name, _, method in engine.asked] == [
        ("run_on", "fresh", METHOD_WARMUP)
    ] * 4
    assert messages.PredictRequest.FromString(engine.asked[1][2]).model_spec.name == "fresh"


def test_replay_refuses_what_warm_up_cannot_run() -> None:
    engine: Any = FakeEngine()
    servable: Any = FakeServable("fresh", 9, SIGNATURES)
    log = messages.PredictionLog()
    log.session_run_log.SetInParent()
    with pytest.raises(TfsError, match="Unsupported log_type for warmup: 5") as raised:
        replay(engine, servable, log)
    assert raised.value.code is Code.UNIMPLEMENTED
    log.classify_log.request.CopyFrom(request("ClassificationRequest", "zz"))
    with pytest.raises(TfsError, match="No signature was found with the name: zz"):
        replay(engine, servable, log)
