"""What an answer of the REST port looks like on the wire.

Owns: the head of an answer, the JSON of an error, the way past ASGI.  Must not know: routes, requests.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers = list[tuple[bytes, bytes]]

_ESCAPES = {code: f"\\u{code:04X}" for code in range(32)} | str.maketrans(
    {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)


async def respond(scope: Any, status: int, headers: list[bytes], body: bytes) -> None:
    """The whole answer to a request in one write: what two `send` events of ASGI do, without parsing their headers again.

    `headers` are complete lines (`b"name: value\\r\\n"`) without Content-Length. A client that has left gets nothing."""
    cycle = scope["cycle"]
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected or cycle.response_complete:
        return
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    whole = on_the_wire(cycle.default_headers, cycle.keep_alive, status, headers, body)
    cycle.transport.write(whole[: -len(body)] if body and scope["method"] == "HEAD" else whole)
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def on_the_wire(defaults: Headers, keep_alive: bool, status: int, headers: list[bytes], body: bytes) -> bytes:
    """The bytes of an answer. `defaults`: the headers that all answers have (the date)."""
    lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % pair for pair in defaults), *headers]
    lines.append(b"content-length: %d\r\n" % len(body))
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    lines += (b"\r\n", body)
    return b"".join(lines)


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return STATUS_LINE[status]


def error_body(text: str) -> bytes:
    """The JSON of an error, laid out and escaped as the reference does."""
    quoted = text.translate(_ESCAPES).encode("utf-8", "surrogateescape")
    return b'{\n    "error": "' + quoted + b'"\n}'
