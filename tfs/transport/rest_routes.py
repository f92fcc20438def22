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


class BadRoute(InvalidArgument):
    """A path of the API that is no request. `model` is what it named all the same ("" when nothing matched), for the metrics.

    `silent`: the reference's text never reaches the client, whose answer has no body."""

    def __init__(self, message: str, model: str = "", *, silent: bool = False) -> None:
        super().__init__(message)
        self.model, self.silent = model, silent


def split_target(target: bytes) -> tuple[bytes, bytes] | None:
    """(path alone, path with query and fragment) of a request target; None when it is no URI. Absolute URIs lose their host."""
    if target == b"*":
        return target, target
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
    """The route of an API path (with its query); raises BadRoute with the reference's text."""
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = pattern.fullmatch(full_path) if pattern is not None else None
    if match is None:
        raise BadRoute(_malformed(method, full_path))
    captured, version, label, last = match.groups()
    model = _decode(captured or b"")
    if version is not None and (len(version.lstrip(b"0")) > 19 or int(version) > _LARGEST_VERSION):
        raise BadRoute(f"Failed to convert version: {version.decode()} to numeric.", model, silent=True)
    if method == "POST":
        action = last.decode()
        if action not in (PREDICT, CLASSIFY, REGRESS):
            raise BadRoute(_malformed(method, full_path), model)
    elif model:
        action = METADATA if last == b"metadata" else STATUS
    elif match[0].count(b"/") == 2:
        return Route(LIST, "")
    else:
        raise BadRoute("Missing model name in request.")
    return Route(
        action, model, None if version is None else int(version), None if label is None else _decode(label)
    )


def _malformed(method: str, full_path: bytes) -> str:
    return f"Malformed request: {method} {full_path.decode('ascii')}"


def _decode(name: bytes) -> str:
    """Bytes that are no UTF-8 become surrogates, so that messages can show them as they came."""
    return unquote_to_bytes(name).decode("utf-8", "surrogateescape")
