"""GetModelMetadata: the signatures of a loaded model, as protobuf for gRPC and as JSON for REST.

Must not know: grpc, HTTP.  Any thread.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from tfs import messages
from tfs._fastpath import Engine, LoadedServable
from tfs.errors import InvalidArgument
from tfs.service.parsing import parse, resolve

_FIELD = "signature_def"
_TYPE_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class MetadataService:
    """GetModelMetadata over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get_model_metadata(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized GetModelMetadataRequest -> GetModelMetadataResponse."""
        request = parse("GetModelMetadataRequest", body)
        if not request.HasField("model_spec"):
            raise InvalidArgument("Missing ModelSpec")
        if not request.metadata_field:
            raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _FIELD:
                raise InvalidArgument(f"Metadata field {field} is not supported")
        servable = resolve(self._engine, request.model_spec)
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        metadata = response.metadata[_FIELD]
        metadata.type_url = _TYPE_URL
        metadata.value = signature_map(servable).SerializeToString()
        return bytes(response.SerializeToString())

    def json(self, model: str, version: int | None, label: str | None) -> bytes:
        """The REST body for a loaded version."""
        servable = self._engine.resolve(model, version, label)
        document = {
            "model_spec": {"name": servable.name, "version": str(servable.version), "signature_name": ""},
            "metadata": {_FIELD: printable(signature_map(servable))},
        }
        return json.dumps(document, indent=1, ensure_ascii=False).encode()


def signature_map(servable: LoadedServable) -> Any:
    """The SignatureDefMap message of a loaded version."""
    mapped = messages.SignatureDefMap()
    for name, serialized in servable.signature_defs.items():
        mapped.signature_def[name].MergeFromString(serialized)
    return mapped


def printable(message: Any) -> dict[str, Any]:
    """A message as protobuf's JSON mapping prints it: proto names, 64-bit numbers as strings, defaults included."""
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        descriptor_pool=messages.pool(),
    )
