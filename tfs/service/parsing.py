"""What the cold services share: request bytes -> message, ModelSpec -> servable.

Must not know: grpc, HTTP, event loops.  Any thread.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError

from tfs import messages
from tfs._fastpath import Engine, LoadedServable
from tfs.errors import Code, Internal, InvalidArgument, TfsError

# protobuf's parser keeps the GIL, and millions of empty parts take seconds: requests that name things and hold no data end here (the
# Examples of a request are taken out before), and so does a configuration of ten thousands of models.
MAX_BYTES: Final = 1 << 20
MAX_CONFIG_BYTES: Final = 16 << 20


def parse(class_name: str, body: bytes, limit: int = MAX_BYTES) -> Any:
    """The request message of that class; the reference answers an empty text to bytes that are not one. RESOURCE_EXHAUSTED beyond
    `limit` bytes."""
    if len(body) > limit:
        raise TfsError(
            f"{class_name} of {len(body)} bytes is larger than {limit} bytes", Code.RESOURCE_EXHAUSTED
        )
    try:
        return getattr(messages, class_name).FromString(body)
    except DecodeError:
        raise Internal("") from None


def version_of(spec: Any) -> int | None:
    """The version that a ModelSpec message asks for."""
    return int(spec.version.value) if spec.WhichOneof("version_choice") == "version" else None


def resolve(engine: Engine, spec: Any) -> LoadedServable:
    """The published servable for a ModelSpec message; raises with the reference's texts."""
    if not spec.name:
        raise InvalidArgument("ModelSpec has no name specified.")
    label = spec.version_label if spec.WhichOneof("version_choice") == "version_label" else None
    return engine.resolve(spec.name, version_of(spec), label)
