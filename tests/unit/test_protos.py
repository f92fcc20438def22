"""The interface in `protos/` against the interface that clients have: names, numbers and types of every field and value.

Also that the committed descriptor set is what `protos/` gives.  The other side is the installed tensorflow and
tensorflow-serving-api, which only tests may import.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tfs import messages

ROOT = Path(__file__).resolve().parents[2]

# What ours declares more loosely on purpose: the server never looks inside (see the files' own words).
OPAQUE = {"GraphDef", "StepStats", "CostGraphDef", "SavedObjectGraph", "OpDef"}


@pytest.fixture(scope="module")
def reference() -> Any:
    """A pool with the reference's own files."""
    pytest.importorskip(
        "tensorflow_serving.apis.prediction_service_pb2", reason="needs tensorflow-serving-api"
    )
    for name in ("prediction_log", "model_service", "session_service"):
        __import__(f"tensorflow_serving.apis.{name}_pb2")
    for name in ("platform_config", "model_server_config"):
        __import__(f"tensorflow_serving.config.{name}_pb2")
    __import__("tensorflow.core.protobuf.saved_model_pb2")
    from google.protobuf import descriptor_pool

    return descriptor_pool.Default()


def our_files() -> list[Any]:
    from google.protobuf import descriptor_pb2

    data = (ROOT / "tfs" / "_descriptors.bin").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(data).file
    return [messages.pool().FindFileByName(file.name) for file in files]


def fields(message: Any) -> dict[str, tuple[object, ...]]:
    """Field name -> number, type, repeated or not, type name, oneof."""
    described = {}
    for field in message.fields:
        kind = field.message_type or field.enum_type
        oneof = field.containing_oneof.name if field.containing_oneof else None
        described[field.name] = (
            field.number,
            field.type,
            field.is_repeated,
            kind and kind.full_name,
            oneof,
            field.json_name,
        )
    return described


def compare(ours: Any, theirs: Any) -> None:
    assert fields(ours) == fields(theirs), ours.full_name
    assert set(ours.enum_types_by_name) == set(theirs.enum_types_by_name), ours.full_name
    for name, enum in ours.enum_types_by_name.items():
        assert enum_values(enum) == enum_values(theirs.enum_types_by_name[name]), enum.full_name
    for nested in ours.nested_types:
        compare(nested, theirs.nested_types_by_name[nested.name])


def enum_values(enum: Any) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def test_messages_match_the_reference(reference: Any) -> None:
    compared = 0
    for file in our_files():
        for name, message in file.message_types_by_name.items():
            if name in OPAQUE:
                continue
            try:
                theirs = reference.FindMessageTypeByName(message.full_name)
            except KeyError:
                continue
            compare(message, theirs)
            compared += 1
    assert compared > 100


def test_enums_match_the_reference(reference: Any) -> None:
    for name in ("tensorflow.DataType", "tensorflow.error.Code", "tensorflow.serving.ModelType"):
        ours = messages.pool().FindEnumTypeByName(name)
        assert enum_values(ours) == enum_values(reference.FindEnumTypeByName(name)), name


def test_services_match_the_reference(reference: Any) -> None:
    for name in ("PredictionService", "ModelService", "SessionService"):
        ours, theirs = (
            {
                method.name: (method.input_type.full_name, method.output_type.full_name)
                for method in service.methods
            }
            for service in (
                messages.pool().FindServiceByName(f"tensorflow.serving.{name}"),
                reference.FindServiceByName(f"tensorflow.serving.{name}"),
            )
        )
        assert ours == theirs, name


# Not in tensorflow-serving-api; field numbers as the reference server's own config files define them.
CONFIG_ONLY = {
    "MonitoringConfig": {"prometheus_config": 1},
    "PrometheusConfig": {"enable": 1, "path": 2},
    "SSLConfig": {"server_key": 1, "server_cert": 2, "custom_ca": 3, "client_verify": 4},
    "BatchingParameters": {
        "max_batch_size": 1,
        "batch_timeout_micros": 2,
        "max_enqueued_batches": 3,
        "num_batch_threads": 4,
        "thread_pool_name": 5,
        "allowed_batch_sizes": 6,
        "pad_variable_length_inputs": 7,
        "enable_large_batch_splitting": 8,
        "max_execution_batch_size": 9,
    },
    "SerializedInput": {"example_list": 1, "example_list_with_context": 2},
    "SerializedExampleListWithContext": {"examples": 1, "context": 2},
    "SavedModelConfig": {"session_overrides": 1, "tfrt_runtime_config": 2, "critical": 3},
}


@pytest.mark.parametrize("name", CONFIG_ONLY)
def test_config_messages(name: str) -> None:
    descriptor = getattr(messages, name).DESCRIPTOR
    assert {field.name: field.number for field in descriptor.fields} == CONFIG_ONLY[name]


def test_descriptors_are_what_the_sources_give() -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools")
    done = subprocess.run(
        [sys.executable, "tools/protos.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
