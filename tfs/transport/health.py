"""grpc.health.v1.Health: Check and Watch, following readiness.

Owns: the two messages (one field each, so they are written by hand) and which service names are known: the overall one (""), the
reference's short names and the fully qualified ones.  Loop thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tfs.errors import Internal, NotFound
from tfs.service import wire
from tfs.service.methods import SERVICES

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

_KNOWN = frozenset({"", *SERVICES, *(name.rpartition(".")[2] for name in SERVICES)})
# HealthCheckResponse with its only field, status.
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


class Health:
    """What the health service says; NOT_SERVING until `set_serving(True)`."""

    def __init__(self) -> None:
        self._status = _NOT_SERVING
        self._changed = asyncio.Event()
        self._closed = False

    def set_serving(self, serving: bool) -> None:
        """Tells every Watch when the answer changes."""
        status = _SERVING if serving else _NOT_SERVING
        if status != self._status:
            self._status = status
            self._wake()

    def close(self) -> None:
        """Ends every Watch, after a last answer when that has changed."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def check(self, body: bytes, timeout_ns: int | None) -> bytes:
        """A serialized HealthCheckRequest -> HealthCheckResponse."""
        if _service_name(body) not in _KNOWN:
            raise NotFound("service name unknown")
        return self._status

    async def watch(self, body: bytes) -> AsyncIterator[bytes]:
        """A serialized HealthCheckRequest -> one HealthCheckResponse now and one after each change, until `close`."""
        known = _service_name(body) in _KNOWN
        sent = b""
        while True:
            status = self._status if known else _SERVICE_UNKNOWN
            changed = self._changed
            if status != sent:
                sent = status
                yield status
            elif self._closed:
                return
            else:
                await changed.wait()


def _service_name(body: bytes) -> str:
    try:
        names = [payload.decode() for number, payload in wire.fields(body) if number == 1]
    except ValueError:
        raise Internal("") from None
    return names[-1] if names else ""
