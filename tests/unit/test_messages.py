"""`tfs.messages`: classes by short name from a private pool, beside any other protobuf user of the process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tfs import messages

STUB = Path(messages.__file__).with_suffix(".pyi")


def run(source: str) -> str:
    """What a fresh interpreter prints for `source`."""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_classes_are_made_once() -> None:
    assert messages.PredictRequest is messages.PredictRequest
    assert messages.PredictRequest.DESCRIPTOR.full_name == "tensorflow.serving.PredictRequest"


def test_messages_of_one_pool_nest() -> None:
    request = messages.PredictRequest()
    request.model_spec.version.value = 3
    request.inputs["x"].CopyFrom(messages.TensorProto(dtype=messages.DataType.DT_FLOAT, float_val=[1.0]))
    again = messages.PredictRequest.FromString(request.SerializeToString())
    assert again.model_spec.WhichOneof("version_choice") == "version"
    assert list(again.inputs["x"].float_val) == [1.0]


def test_enums() -> None:
    assert messages.DataType.DT_STRING == 7
    assert messages.DataType.Name(14) == "DT_BFLOAT16"
    assert messages.ModelVersionStatus.State.Name(30) == "AVAILABLE"
    assert messages.ModelVersionStatus.END == 50


def test_any_packs_and_unpacks() -> None:
    inner = messages.SignatureDefMap()
    inner.signature_def["s"].method_name = "tensorflow/serving/predict"
    packed = messages.Any()
    packed.Pack(inner)
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    unpacked = messages.SignatureDefMap()
    assert packed.Unpack(unpacked)
    assert unpacked == inner


def test_any_prints_as_json() -> None:
    from google.protobuf import json_format

    response = messages.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(messages.SignatureDefMap())
    printed = json_format.MessageToDict(
        response, descriptor_pool=messages.pool(), preserving_proto_field_name=True
    )
    assert printed["metadata"]["signature_def"]["@type"].endswith("SignatureDefMap")


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = messages.NoSuchThing  # type: ignore[attr-defined]


def test_short_names_are_unique() -> None:
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(STUB.with_name("_descriptors.bin").read_bytes()).file
    names = [top.name for file in files for top in (*file.message_type, *file.enum_type)]
    assert len(names) == len(set(names))


def stub_classes(body: list[ast.stmt]) -> list[ast.ClassDef]:
    return [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def check_class(node: ast.ClassDef, made: type) -> None:
    """Everything that the stub says about a class exists in it (fields appear on instances only)."""
    names = [item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.ClassDef)]
    names += [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    ]
    for name in names:
        assert hasattr(made(), name), f"{node.name}.{name}"
    for nested in stub_classes(node.body):
        check_class(nested, getattr(made, nested.name))


def test_stub_tells_the_truth() -> None:
    tree = ast.parse(STUB.read_text())
    classes = stub_classes(tree.body)
    assert len(classes) > 60
    for node in classes:
        check_class(node, getattr(messages, node.name))


def test_import_is_lazy() -> None:
    assert run("import sys, tfs.messages; print('google.protobuf' in sys.modules)") == "False"


def test_beside_the_reference_in_one_process() -> None:
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    source = (
        "{first}; {second}\n"
        "from tfs import messages; from tensorflow_serving.apis import predict_pb2\n"
        "theirs = predict_pb2.PredictRequest(output_filter=['y']); theirs.inputs['x'].dtype = 1\n"
        "ours = messages.PredictRequest.FromString(theirs.SerializeToString())\n"
        "assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == theirs\n"
        "print(list(ours.output_filter), messages.ConfigProto.DESCRIPTOR.full_name)"
    )
    ours_first = "from tfs import messages; messages.ConfigProto"
    tensorflow = "import tensorflow"
    for first, second in ((ours_first, tensorflow), (tensorflow, ours_first)):
        assert run(source.format(first=first, second=second)) == "['y'] tensorflow.ConfigProto"
