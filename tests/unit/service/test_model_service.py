"""GetModelStatus, HandleReloadConfigRequest, GetModelMetadata and the OpenAPI document over scripted parts."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from fake_core import FakeCore, FakeEngine, FakeServable, FakeStatus

from tfs import messages
from tfs.errors import Code, FailedPrecondition, InvalidArgument, TfsError
from tfs.service import openapi
from tfs.service.metadata import MetadataService
from tfs.service.model import ModelService


def run(coroutine: Any) -> bytes:
    return bytes(asyncio.run(coroutine))


def refusal(coroutine: Any) -> tuple[Code, str]:
    with pytest.raises(TfsError) as raised:
        asyncio.run(coroutine)
    return raised.value.code, raised.value.message


def test_requests_that_only_name_things_are_limited() -> None:
    """protobuf's parser would keep the GIL, and with it the loop, for seconds."""
    engine: Any = FakeEngine()
    large = b"\x12\x01a" * 400_000
    assert refusal(MetadataService(engine).get_model_metadata(large, None)) == (
        Code.RESOURCE_EXHAUSTED,
        "GetModelMetadataRequest of 1200000 bytes is larger than 1048576 bytes",
    )
    assert refusal(ModelService(core()).get_model_status(large, None))[0] is Code.RESOURCE_EXHAUSTED
    huge = b"\x12\x00" * (9 << 20)
    assert refusal(ModelService(core()).handle_reload_config(huge, None)) == (
        Code.RESOURCE_EXHAUSTED,
        "ReloadConfigRequest of 18874368 bytes is larger than 16777216 bytes",
    )


def core() -> FakeCore:
    return FakeCore(
        {"m": [FakeStatus(1, 50, InvalidArgument("broken")), FakeStatus(3, 30), FakeStatus(2, 20)]}
    )


def status_request(name: str | None, version: int | None = None, label: str | None = None) -> bytes:
    request = messages.GetModelStatusRequest()
    if name is not None:
        request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    return bytes(request.SerializeToString())


def test_status_lists_the_highest_version_first() -> None:
    for request in (status_request("m"), status_request("m", label="nobody asks")):
        body = run(ModelService(core()).get_model_status(request, None))
        answer = messages.GetModelStatusResponse.FromString(body)
        assert [(one.version, one.state, one.status.error_code) for one in answer.model_version_status] == [
            (3, 30, 0), (2, 20, 0), (1, 50, 3),
        ]  # fmt: skip
        assert answer.model_version_status[2].status.error_message == "broken"


def test_status_of_one_version() -> None:
    body = run(ModelService(core()).get_model_status(status_request("m", 2), None))
    assert [one.version for one in messages.GetModelStatusResponse.FromString(body).model_version_status] == [
        2
    ]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (b"", Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (b"\x0a\x00", Code.NOT_FOUND, "Could not find any versions of model "),
        (status_request("no"), Code.NOT_FOUND, "Could not find any versions of model no"),
        (status_request("m", 0), Code.NOT_FOUND, "Could not find version 0 of model m"),
        (b"\xff", Code.INTERNAL, ""),
    ],
)
def test_status_refuses(request_: bytes, code: Code, text: str) -> None:
    assert refusal(ModelService(core()).get_model_status(request_, None)) == (code, text)


def reload_request(*metric_names: str) -> Any:
    request = messages.ReloadConfigRequest(metric_names=metric_names)
    request.config.model_config_list.config.add().name = "x"
    return request


def test_reload_runs_off_the_loop_and_reports_what_the_metrics_grew() -> None:
    made, threads, values = core(), [], {"/a": 3, "/b": 0}
    reload = made.reload

    def slow(config: Any, timeout_s: float | None) -> None:
        threads.append(threading.current_thread())
        values["/a"] = 10
        assert timeout_s == 2.5
        reload(config, timeout_s)

    made.reload = slow  # type: ignore[method-assign]
    service = ModelService(made, lambda name: values.get(name, 0))
    body = run(
        service.handle_reload_config(reload_request("/a", "/b", "/c").SerializeToString(), 2_500_000_000)
    )
    answer = messages.ReloadConfigResponse.FromString(body)
    assert threads[0] is not threading.current_thread()
    assert [(one.name, one.int64_value_increase) for one in answer.metric] == [
        ("/a", 7),
        ("/b", 0),
        ("/c", 0),
    ]
    assert answer.HasField("status")
    assert made.reloads[0].model_config_list.config[0].name == "x"


def test_reload_refuses() -> None:
    made = core()
    text = "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    for empty in (b"", b"\x0a\x00"):
        assert refusal(ModelService(made).handle_reload_config(empty, None)) == (Code.INVALID_ARGUMENT, text)
    assert made.reloads == []
    made.refuse = FailedPrecondition("no")
    assert refusal(ModelService(made).handle_reload_config(reload_request().SerializeToString(), None)) == (
        Code.FAILED_PRECONDITION,
        "no",
    )


# --- metadata and OpenAPI ------------------------------------------------------------------------------------------------------


def signature(method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
    made = messages.SignatureDef(method_name=f"tensorflow/serving/{method}")
    for side, infos in ((made.inputs, inputs), (made.outputs, outputs)):
        for alias, (dtype, dims) in infos.items():
            side[alias].dtype = dtype
            if dims is None:
                side[alias].tensor_shape.unknown_rank = True
                continue
            for size in dims:
                side[alias].tensor_shape.dim.add().size = size
    return bytes(made.SerializeToString())


SIGNATURES = {
    "serving_default": signature("predict", {"x": (1, [-1, 3])}, {"y": (1, [-1])}),
    "two": signature("predict", {"a": (9, []), "s": (7, None)}, {"o_bytes": (7, [-1]), "flag": (10, [-1])}),
    "c": signature("classify", {"inputs": (7, [-1])}, {"scores": (1, [-1, 2])}),
    "__saved_model_init_op": signature("", {}, {}),
}


def metadata_request(name: str | None, *fields: str) -> bytes:
    request = messages.GetModelMetadataRequest(metadata_field=fields)
    if name is not None:
        request.model_spec.name = name
    return bytes(request.SerializeToString())


def test_metadata_holds_every_signature() -> None:
    engine: Any = FakeEngine([FakeServable("m", 4, SIGNATURES)])
    body = run(MetadataService(engine).get_model_metadata(metadata_request("m", "signature_def"), None))
    answer = messages.GetModelMetadataResponse.FromString(body)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("m", 4)
    assert answer.model_spec.signature_name == ""
    packed = answer.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = messages.SignatureDefMap.FromString(packed.value).signature_def
    assert {name: one.SerializeToString() for name, one in signatures.items()} == SIGNATURES


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (metadata_request(None), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (metadata_request("m"), Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"),
        (metadata_request("no", "signature_def", "x"), Code.INVALID_ARGUMENT, "Metadata field x is not supported"),
        (metadata_request("no", "signature_def"), Code.NOT_FOUND, "Servable not found for request: Latest(no)"),
    ],
)  # fmt: skip
def test_metadata_refuses(request_: bytes, code: Code, text: str) -> None:
    engine: Any = FakeEngine([FakeServable("m", 4, SIGNATURES)])
    assert refusal(MetadataService(engine).get_model_metadata(request_, None)) == (code, text)


def test_openapi_describes_the_models_that_serve() -> None:
    engine: Any = FakeEngine([FakeServable("a/b", 4, SIGNATURES)])
    document = json.loads(openapi.document(engine, lambda: ["a/b", "loading"]))
    assert document["openapi"] == "3.1.0"
    base = "/v1/models/a%2Fb"
    assert set(document["paths"]) == {
        "/v1/models",
        base,
        base + "/metadata",
        base + ":predict",
        base + ":classify",
    }
    predict = document["paths"][base + ":predict"]["post"]
    bodies = predict["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    rows = bodies[1]["anyOf"][0]
    assert rows["required"] == ["instances"]
    element = rows["properties"]["instances"]["items"]["anyOf"][0]
    assert (element["type"], element["minItems"], element["items"]) == ("array", 3, {"type": "number"})
    columns = bodies[2]["anyOf"][1]
    assert columns["required"] == ["signature_name", "inputs"]
    assert columns["properties"]["signature_name"] == {"const": "two"}
    assert columns["properties"]["inputs"]["properties"]["a"]["type"] == "integer"
    answers = predict["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    named = answers[2]["anyOf"][0]["properties"]["predictions"]["items"]["properties"]
    assert named["flag"]["type"] == "boolean"
    assert "anyOf" in named["o_bytes"]
