"""The light client: needs numpy and grpcio, never TensorFlow, and no protobuf.

    from tfs.client import Client

    with Client("localhost:8500") as client:
        outputs = client.predict("half_plus_two", {"x": [1.0, 2.0, 5.0]})
        print(outputs["y"])

`AsyncClient` is the same for asyncio, `RestClient` the same over HTTP. Errors are those of `tfs.errors`: `.code` and `.message`.
"""

from typing import TYPE_CHECKING, Any

from tfs.client._aio import AsyncClient
from tfs.client._channel import TLS
from tfs.client._grpc import Client
from tfs.client.dtypes import DataType, Typed
from tfs.client.examples import decode_example, encode_example
from tfs.client.types import (
    All,
    Class,
    Latest,
    ModelConfig,
    ModelMetadata,
    Prediction,
    Signature,
    Specific,
    State,
    TensorInfo,
    VersionStatus,
)
from tfs.errors import Code, TfsError

if TYPE_CHECKING:
    from tfs.client.rest import RestClient

__all__ = [
    "TLS",
    "All",
    "AsyncClient",
    "Class",
    "Client",
    "Code",
    "DataType",
    "Latest",
    "ModelConfig",
    "ModelMetadata",
    "Prediction",
    "RestClient",
    "Signature",
    "Specific",
    "State",
    "TensorInfo",
    "TfsError",
    "Typed",
    "VersionStatus",
    "decode_example",
    "encode_example",
]


def __getattr__(name: str) -> Any:
    """RestClient when it is first asked for: the standard library's HTTP is a tenth of the whole import."""
    if name == "RestClient":
        from tfs.client.rest import RestClient

        return RestClient
    raise AttributeError(f"module 'tfs.client' has no attribute {name!r}")
