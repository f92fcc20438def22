"""Answers of the REST port that are not of the API: metrics and the OpenAPI document.

Owns: their paths and content types.  Must not know: what is on them.  Any thread.
"""

from __future__ import annotations

from collections.abc import Callable

from tfs.transport.rest import MakePage, Page

METRICS_PATH = b"/metrics"
OPENAPI_PATH = b"/openapi.json"
_STANDARD_METRICS = b"text/plain; version=0.0.4; charset=utf-8"


def pages(
    *,
    reference_path: str | None,
    reference_metrics: Callable[[], bytes],
    metrics: Callable[[], bytes],
    openapi: Callable[[], bytes],
) -> dict[bytes, MakePage]:
    """Path -> page. `reference_path` is that of the monitoring configuration, None when it is off; it wins over ours."""
    made: dict[bytes, MakePage] = {
        METRICS_PATH: lambda path, query: Page(200, _STANDARD_METRICS, metrics()),
        OPENAPI_PATH: lambda path, query: Page(200, b"application/json", openapi()),
    }
    if reference_path is not None:
        made[reference_path.encode()] = _reference(reference_metrics)
    return made


def _reference(metrics: Callable[[], bytes]) -> MakePage:
    def make(path: bytes, query: bytes) -> Page:
        if query:
            text = b"Unexpected path: " + path + query + b". Should be " + path
            return Page(400, b"text/plain", text)
        return Page(200, b"text/plain", metrics())

    return make
