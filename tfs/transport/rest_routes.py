"""Which request means what: method and raw target -> `Route`, with every quirk of the reference.

Owns: the patterns, the decoding of names, the texts of malformed requests.  Pure; knows no sockets and no engine.
The query string is part of the path (`?x=1` is part of a model's name); patterns ignore case, the verb does not; names are
percent-decoded after matching.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from tfs.errors import InvalidArgument

PREDICT, CLASSIFY, REGRESS, STATUS, METADATA, LIST = (
    "predict",
    "classify",
    "regress",
    "status",
    "metadata",
    "list",
)

_MODEL = rb"/v1/models/([^/:]+)"
_CHOICE = rb"(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST: Final = re.compile(_MODEL + _CHOICE + rb":(classify|regress|predict)", re.IGNORECASE)
_GET: Final = re.compile(rb"/v1/models(?:/([^/:]+))?" + _CHOICE + rb"(?:/(metadata))?", re.IGNORECASE)
_API: Final = re.compile(rb"/v1/", re.IGNORECASE)
# RFC 3986: path, query and fragment of a request target; anything else is no URI and never gets as far as routing.
_PATH = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*"
_REST = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*"
_TARGET: Final = re.compile(rb"(" + _PATH + rb")(\?" + _REST + rb")?(#" + _REST + rb")?")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_LARGEST_VERSION: Final = (1 << 63) - 1
METHODS: Final = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})


@dataclass(frozen=True, slots=True)
class Route:
    """One API call; `version` and `label` are never both set. `action` is one of the constants above."""

    action: str
    model: str
    version: int | None = None
    label: str | None = None


class NoNumber(InvalidArgument):
    """A version beyond int64: the reference's text for it never reaches the client, whose answer has no body."""


def split_target(target: bytes) -> tuple[bytes, bytes] | None:
    """(path alone, path with query and fragment) of a request target; None when it is no URI. Absolute URIs lose their host."""
    if not target.startswith(b"/"):
        host = _ABSOLUTE.match(target)
        if host is None:
            return None
        target = target[host.end() :] or b"/"
    match = _TARGET.fullmatch(target)
    return None if match is None else (match[1], target)


def is_api(full_path: bytes) -> bool:
    """Whether the API answers this path (with errors too); anything else is not found."""
    return _API.match(full_path) is not None


def find(method: str, full_path: bytes) -> Route:
    """The route of an API path (with its query); raises InvalidArgument with the reference's text, or NoNumber."""
    if method == "POST":
        match = _POST.fullmatch(full_path)
        if match is not None:
            model, version, label, verb = match.groups()
            route = _route(verb.decode(), model, version, label)
            if route.action in (PREDICT, CLASSIFY, REGRESS):
                return route
    elif method == "GET":
        match = _GET.fullmatch(full_path)
        if match is not None:
            model, version, label, metadata = match.groups()
            if model is None and match[0].count(b"/") == 2:
                return Route(LIST, "")
            route = _route(METADATA if metadata == b"metadata" else STATUS, model or b"", version, label)
            if not route.model:
                raise InvalidArgument("Missing model name in request.")
            return route
    raise InvalidArgument(f"Malformed request: {method} {full_path.decode('ascii')}")


def _route(action: str, model: bytes, version: bytes | None, label: bytes | None) -> Route:
    number = None if version is None else int(version)
    if number is not None and number > _LARGEST_VERSION:
        raise NoNumber(f"Failed to convert version: {number} to numeric.")
    return Route(action, _decode(model), number, None if label is None else _decode(label))


def _decode(name: bytes) -> str:
    return unquote_to_bytes(name).decode("utf-8", "replace")
