"""gRPC server reflection (v1 and v1alpha): what grpcurl and friends ask to learn the interface.

Owns: the reflection messages, written and read by hand (few fields, two packages that differ in name only).  Descriptors come from
the private pool of `tfs.messages`, which is why PyPI's grpcio-reflection and its default pool are not used.  Loop thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfs.errors import Code
from tfs.service import wire

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHODS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)

# Fields of ServerReflectionRequest.
_FILE_BY_NAME, _FILE_BY_SYMBOL, _FILE_BY_EXTENSION, _EXTENSION_NUMBERS, _LIST_SERVICES = 3, 4, 5, 6, 7
# Fields of ServerReflectionResponse.
_ORIGINAL, _DESCRIPTORS, _NUMBERS, _LISTED, _ERROR = 2, 4, 5, 6, 7


class Reflection:
    """Answers from one descriptor pool for the services that this server has."""

    def __init__(self, pool: Any, services: Sequence[str]) -> None:
        self._pool, self._services = pool, sorted((*services, *SERVICES))

    def answer(self, request: bytes) -> bytes:
        """A serialized ServerReflectionRequest -> ServerReflectionResponse; the one method is a stream of these."""
        return _field(_ORIGINAL, request) + self._answer(request)

    def _answer(self, request: bytes) -> bytes:
        try:
            asked = [(number, payload) for number, payload in wire.fields(request) if number >= _FILE_BY_NAME]
            number, payload = asked[-1]
            name = payload.decode()
        except (ValueError, IndexError):
            return _error(Code.INVALID_ARGUMENT, "the request asks for nothing that reflection knows")
        try:
            if number == _LIST_SERVICES:
                listed = b"".join(_field(1, _field(1, service.encode())) for service in self._services)
                return _field(_LISTED, listed)
            if number == _FILE_BY_NAME:
                return _files(self._pool.FindFileByName(name))
            if number == _FILE_BY_SYMBOL:
                return _files(self._pool.FindFileContainingSymbol(name))
            if number == _EXTENSION_NUMBERS:
                self._pool.FindMessageTypeByName(name)
                return _field(_NUMBERS, _field(1, payload))  # proto3: there are no extensions
        except KeyError:
            pass
        return _error(Code.NOT_FOUND, f"{name!r} is not known to this server")


def _files(root: Any) -> bytes:
    """FileDescriptorResponse: the file and all that it imports, each once."""
    found: dict[str, bytes] = {}
    waiting = [root]
    while waiting:
        file = waiting.pop()
        if file.name not in found:
            found[file.name] = file.serialized_pb
            waiting.extend(file.dependencies)
    return _field(_DESCRIPTORS, b"".join(_field(1, serialized) for serialized in found.values()))


def _error(code: Code, text: str) -> bytes:
    return _field(_ERROR, bytes((0x08, int(code))) + _field(2, text.encode()))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field; `number` is below 16."""
    size, written = len(payload), bytearray((number << 3 | 2,))
    while size > 0x7F:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    written.append(size)
    return bytes(written) + payload
