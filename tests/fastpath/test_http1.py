"""The reader of REST requests on the I/O threads (_fast/http1.pxi, http1_head.pxi, rest.pxi), without a socket.

What it answers, what it leaves to Python and with which bytes, and that it never reads a request differently than uvicorn's parser does.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from http1_support import Answer, check, cut, head, post, referee
from hypothesis import example, given
from hypothesis import strategies as st

from tfs import _fastpath
from tfs.transport.byte_budget import FREE_BYTES

if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

HTTP1_HEAD = 8192
OK = post(b"first")
LAST = post(b"last", b"Connection: close")


def bodies(found: list[Answer]) -> list[bytes]:
    return [answer.body.partition(b":")[2] for answer in found]


# -- however the bytes are cut


@pytest.mark.parametrize(
    "data",
    [
        post(b"{}"),
        post(b""),
        post(b"\r\n\r\nPOST "),
        post(b"{}", b"Connection: close"),
        post(b"fail:3:no"),
        post(b"hold"),
        post(
            b"{}",
            b"X: " + b"y" * 100,
            b"Accept-Encoding: gzip, br",
            target=b"/v1/models/a/versions/12:predict",
        ),
    ],
    ids=["plain", "empty", "body-like-a-head", "close", "error", "held", "headers"],
)
def test_a_request_in_two_pieces(data: bytes) -> None:
    whole = check([data])
    assert len(whole[0]) == 1
    assert whole[1] is None
    for at in range(1, len(data)):
        assert check([data[:at], data[at:]]) == whole, at
    assert check(cut(data, 1)) == whole


def test_a_pipeline_in_all_groupings() -> None:
    requests = [
        post(b"0"),
        post(b"hold1"),
        post(b"fail:5:2"),
        post(b"", target=b"/v1/models/n:predict"),
        LAST,
    ]
    whole = check([b"".join(requests)])
    assert [answer.status for answer in whole[0]] == [200, 200, 205, 200, 200]
    assert bodies(whole[0])[:2] == [b"0", b"hold1"]
    assert whole[0][-1].last
    for joined in itertools.product([True, False], repeat=len(requests) - 1):
        pieces = [requests[0]]
        for together, request in zip(joined, requests[1:], strict=True):
            if together:
                pieces[-1] += request
            else:
                pieces.append(request)
        assert check(pieces) == whole, joined


@pytest.mark.parametrize("size", [1, 2, 3, 7, 61, 62, 63, 100, 1000])
def test_a_pipeline_in_pieces_of_one_size(size: int) -> None:
    data = b"".join(post(b"%d" % number * 9) for number in range(20))
    found, moved = check(cut(data, size))
    assert bodies(found) == [b"%d" % number * 9 for number in range(20)]
    assert moved is None


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_any_pipeline_in_any_pieces(texts: list[bytes], data: Any) -> None:
    """The x keeps a body from being an order to the echo."""
    whole = b"".join(post(b"x" + text) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)]) if a < b]
    found, moved = check(pieces)
    assert bodies(found) == [b"x" + text for text in texts]
    assert moved is None


@pytest.mark.parametrize("data", [OK[:5], OK[:-1], OK[: OK.index(b"\r\n\r\n") + 2], b"P", b"POST /v2"])
@pytest.mark.parametrize("before", [b"", OK, OK * 3])
def test_what_is_not_whole_is_neither_answered_nor_handed_over(data: bytes, before: bytes) -> None:
    found, moved = check([before + data])
    assert len(found) == before.count(b"first")
    assert moved is None
    assert check([*cut(before + data, 1)]) == (found, None)


def test_a_longer_pipeline_than_is_kept_goes_to_python() -> None:
    """Behind a call under way: HTTP1_AHEAD bytes wait, whatever comes then is Python's once the answer is out."""
    held, ahead = post(b"hold"), post(b"x" * 30_000)
    assert len(check([held, ahead, ahead])[0]) == 3
    found, moved = check([held, ahead, ahead, ahead])
    assert bodies(found) == [b"hold"]
    assert moved == ahead * 3


# -- heads that are taken

TAKEN = [
    head(b"Content-Length: 2"),
    head(b"content-length:2"),
    head(b"CONTENT-LENGTH: 2"),
    head(b"Content-Length:   2"),
    head(b"Content-Length: 2  "),
    head(b"Content-Length: 002"),
    head(b"Content-Length: 2", b"Connection: keep-alive"),
    head(b"Content-Length: 2", b"Connection: KEEP-Alive"),
    head(b"connection: cLOSE", b"Content-Length: 2"),
    head(b"Connection: close", b"Content-Length: 2", b"Connection: keep-alive"),
    head(b"Content-Length: 2", b"X:", b"Y: \ta\tb ", b"Z: \xff\x80\xc3\xa9"),
    head(b"Content-Length: 2", b"!#$%&'*+-.^_`|~09azAZ: odd, but a name"),
    head(b"Content-Length: 2", b"Content-Lengths: 3", b"X-Content-Length: 4", b"Content: 5"),
    head(b"Content-Length: 2", b"A-name-longer-than-any-name-that-matters: x"),
    head(b"Content-Length: 2", b"Transfer-Encodings: chunked", b"TE: trailers", b"Trailer: X"),
    head(b"Content-Length: 2", b"Host: a", b"Host: b", b"Cookie: a=b; c=d", b"Accept-Encoding: gzip"),
    head(b"Content-Length: 2", b"Content-Type: text/plain", b"Accept: image/png", b"Origin: http://h"),
    head(b"Content-Length: 2", b"X: POST /v1/models/m:predict HTTP/1.1"),
    head(b"Content-Length: 2", b"X: " + b"y" * 9000),
    *(
        head(b"Content-Length: 2", line=b"POST %s HTTP/1.1" % target)
        for target in (
            b"/v1/models/m/versions/1:predict",
            b"/v1/models/m/versions/0:predict",
            b"/v1/models/m/versions/007:predict",
            b"/v1/models/m/versions/999999999999999999:predict",
            b"/v1/models/m/labels/stable:predict",
            b"/v1/models/m/labels/1:predict",
            b"/v1/models/A.b-c_9:predict",
            b"/v1/models/..:predict",
            b"/v1/models/versions/versions/3:predict",
        )
    ),
]


@pytest.mark.parametrize("request_head", TAKEN)
def test_heads_that_are_taken(request_head: bytes) -> None:
    data = request_head + b"{}"
    found, moved = check([data])
    assert len(found) == 1
    assert moved is None
    assert bodies(found) == [b"{}"]
    assert found[0].last == (b"close" in request_head.lower())


# -- heads that are Python's


def request_line(line: bytes) -> bytes:
    return head(b"Content-Length: 2", line=line)


def with_lines(*lines: bytes) -> bytes:
    return head(b"Content-Length: 2", *lines)


FOREIGN = {
    # the request line
    "lower-case method": request_line(b"post /v1/models/m:predict HTTP/1.1"),
    "half lower-case method": request_line(b"POSt /v1/models/m:predict HTTP/1.1"),
    "GET": request_line(b"GET /v1/models/m:predict HTTP/1.1"),
    "PUT": request_line(b"PUT /v1/models/m:predict HTTP/1.1"),
    "POSTS": request_line(b"POSTS /v1/models/m:predict HTTP/1.1"),
    "OPTIONS": request_line(b"OPTIONS /v1/models/m HTTP/1.1"),
    "HTTP/1.0": request_line(b"POST /v1/models/m:predict HTTP/1.0"),
    "HTTP/2.0": request_line(b"POST /v1/models/m:predict HTTP/2.0"),
    "HTTP/1.10": request_line(b"POST /v1/models/m:predict HTTP/1.10"),
    "http/1.1": request_line(b"POST /v1/models/m:predict http/1.1"),
    "no version": request_line(b"POST /v1/models/m:predict"),
    "nothing but a method": request_line(b"POST "),
    "method and version": request_line(b"POST HTTP/1.1"),
    "two spaces before the target": request_line(b"POST  /v1/models/m:predict HTTP/1.1"),
    "two spaces after the target": request_line(b"POST /v1/models/m:predict  HTTP/1.1"),
    "space after the version": request_line(b"POST /v1/models/m:predict HTTP/1.1 "),
    "tab instead of space": request_line(b"POST\t/v1/models/m:predict HTTP/1.1"),
    "tab after the target": request_line(b"POST /v1/models/m:predict\tHTTP/1.1"),
    "empty line before": b"\r\n" + with_lines(),
    "a space before": b" " + with_lines(),
    # the target
    "absolute target": request_line(b"POST http://h/v1/models/m:predict HTTP/1.1"),
    "query": request_line(b"POST /v1/models/m:predict?x=1 HTTP/1.1"),
    "empty query": request_line(b"POST /v1/models/m:predict? HTTP/1.1"),
    "fragment": request_line(b"POST /v1/models/m:predict#x HTTP/1.1"),
    "percent-encoded name": request_line(b"POST /v1/models/%6d:predict HTTP/1.1"),
    "percent-encoded colon": request_line(b"POST /v1/models/m%3Apredict HTTP/1.1"),
    "high byte": request_line(b"POST /v1/models/\xc3\xa9:predict HTTP/1.1"),
    "plus in the name": request_line(b"POST /v1/models/a+b:predict HTTP/1.1"),
    "upper-case path": request_line(b"POST /V1/models/m:predict HTTP/1.1"),
    "upper-case verb": request_line(b"POST /v1/models/m:PREDICT HTTP/1.1"),
    "classify": request_line(b"POST /v1/models/m:classify HTTP/1.1"),
    "regress": request_line(b"POST /v1/models/m/versions/1:regress HTTP/1.1"),
    "no verb": request_line(b"POST /v1/models/m HTTP/1.1"),
    "more behind the verb": request_line(b"POST /v1/models/m:predicts HTTP/1.1"),
    "slash behind the verb": request_line(b"POST /v1/models/m:predict/ HTTP/1.1"),
    "two slashes": request_line(b"POST /v1//models/m:predict HTTP/1.1"),
    "two slashes before the name": request_line(b"POST /v1/models//m:predict HTTP/1.1"),
    "no name": request_line(b"POST /v1/models/:predict HTTP/1.1"),
    "no name but a version": request_line(b"POST /v1/models//versions/1:predict HTTP/1.1"),
    "metadata": request_line(b"POST /v1/models/m/metadata HTTP/1.1"),
    "other page": request_line(b"POST /metrics HTTP/1.1"),
    "asterisk": request_line(b"POST * HTTP/1.1"),
    "empty label": request_line(b"POST /v1/models/m/labels/:predict HTTP/1.1"),
    "empty version": request_line(b"POST /v1/models/m/versions/:predict HTTP/1.1"),
    "version with a sign": request_line(b"POST /v1/models/m/versions/-1:predict HTTP/1.1"),
    "version with a letter": request_line(b"POST /v1/models/m/versions/1a:predict HTTP/1.1"),
    "version of 19 digits": request_line(b"POST /v1/models/m/versions/%s:predict HTTP/1.1" % (b"1" * 19)),
    "version of 19 zeros": request_line(b"POST /v1/models/m/versions/%s:predict HTTP/1.1" % (b"0" * 19)),
    "version and label": request_line(b"POST /v1/models/m/versions/1/labels/a:predict HTTP/1.1"),
    "label and version": request_line(b"POST /v1/models/m/labels/a/versions/1:predict HTTP/1.1"),
    "label with a slash": request_line(b"POST /v1/models/m/labels/a/b:predict HTTP/1.1"),
    # Content-Length
    "no length": head(b"Host: h"),
    "no headers": head(),
    "two lengths": head(b"Content-Length: 2", b"Content-Length: 2"),
    "two different lengths": head(b"Content-Length: 2", b"content-length: 3"),
    **{
        f"length {value!r}": head(b"Content-Length: " + value)
        for value in (
            b"+2",
            b"-2",
            b"2 2",
            b"0x2",
            b"",
            b"2.0",
            b"2,2",
            b"2;",
            b"2e0",
            b"two",
            b"\xb2",
            b"1" * 19,
        )
    },
    "length of many zeros": head(b"Content-Length: " + b"0" * 30 + b"2"),
    "length with a space in the name": head(b"Content Length: 2"),
    "space before the colon": head(b"Content-Length : 2"),
    "tab before the colon": head(b"Content-Length\t: 2"),
    "space before the name": head(b" Content-Length: 2"),
    "longer than a body may be": head(b"Content-Length: %d" % (FREE_BYTES + 1)),
    "longer than fits a number": head(b"Content-Length: 18446744073709551618"),
    # what changes the body, or what follows it
    "chunked": with_lines(b"Transfer-Encoding: chunked"),
    "chunked, no length": head(b"Transfer-Encoding: chunked"),
    "identity": with_lines(b"transfer-encoding: identity"),
    "empty transfer-encoding": with_lines(b"Transfer-Encoding:"),
    "gzip": with_lines(b"Content-Encoding: gzip"),
    "identity content": with_lines(b"CONTENT-ENCODING: identity"),
    "expect": with_lines(b"Expect: 100-continue"),
    "other expectation": with_lines(b"Expect: the worst"),
    "upgrade": with_lines(b"Connection: Upgrade", b"Upgrade: h2c"),
    "upgrade alone": with_lines(b"Upgrade: websocket"),
    "connection upgrade alone": with_lines(b"Connection: Upgrade"),
    "connection list": with_lines(b"Connection: keep-alive, Upgrade"),
    "connection close in a list": with_lines(b"Connection: close, TE"),
    "empty connection": with_lines(b"Connection:"),
    "proxy-connection": with_lines(b"Proxy-Connection: close"),
    # lines that somebody may read differently
    "folded line": with_lines(b"X: a", b" b"),
    "folded line with a tab": with_lines(b"X: a", b"\tb"),
    "folded first line": head(b" X: a", b"Content-Length: 2"),
    "no colon": with_lines(b"nonsense"),
    "no name, but a value": with_lines(b": x"),
    "name with a space": with_lines(b"X Y: z"),
    "name in brackets": with_lines(b"(X): z"),
    "name with a high byte": with_lines(b"\xc3\xa9: z"),
    "NUL in a name": with_lines(b"X\0: y"),
    "NUL in a value": with_lines(b"X: a\0b"),
    "CR in a value": with_lines(b"X: a\rb"),
    "CR at the end of a value": with_lines(b"X: a\r"),
    "DEL in a value": with_lines(b"X: a\x7fb"),
    "BEL in a value": with_lines(b"X: a\x07b"),
    "ESC in a value": with_lines(b"X: \x1b[0m"),
    "VT around the length": head(b"Content-Length: \x0b2"),
    "NUL in the target": request_line(b"POST /v1/models/m\0:predict HTTP/1.1"),
    "LF after the request line": with_lines().replace(b"\r\n", b"\n", 1),
    "LF after a header": head(b"X: y\nContent-Length: 2"),
    "LF everywhere": with_lines(b"X: y").replace(b"\r\n", b"\n"),
    "LF as the empty line": with_lines()[:-2] + b"\n",
    "LF CR": with_lines().replace(b"\r\n", b"\n\r"),
    # not HTTP/1.1 at all
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing but zeros": bytes(100),
}


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("name", FOREIGN)
def test_heads_that_are_pythons(name: str, before: int) -> None:
    """Whatever was not answered is handed over to the byte, the requests behind it included."""
    foreign = FOREIGN[name] + b"{}"
    found, moved = check([OK * before + foreign + OK + LAST])
    assert bodies(found) == [b"first"] * before
    assert moved == foreign + OK + LAST
    assert check([OK] * before + [foreign]) == (found, foreign)


@pytest.mark.parametrize("name", FOREIGN)
def test_heads_that_are_pythons_byte_by_byte(name: str) -> None:
    """It may be seen as soon as the byte comes; what was read until then is handed over."""
    foreign = FOREIGN[name] + b"{}"
    found, moved = check(cut(OK + foreign + OK, 1))
    assert bodies(found) == [b"first"]
    assert moved
    assert foreign.startswith(moved)


def test_a_foreign_request_behind_a_held_one() -> None:
    foreign = post(target=b"/v1/models/m:classify")
    assert check([post(b"hold") + foreign + OK])[1] == foreign + OK
    assert check([post(b"hold"), foreign[:30], foreign[30:], OK])[1] == foreign + OK


def test_heads_of_any_length_are_read_when_they_are_whole() -> None:
    """What is not waited for is a head that is not whole after HTTP1_HEAD bytes."""
    long = post(b"{}", b"X: " + b"y" * HTTP1_HEAD)
    assert check([long])[1] is None
    assert check([long[:HTTP1_HEAD]])[1] == long[:HTTP1_HEAD]
    assert check([long[: HTTP1_HEAD - 1]]) == ([], None)
    endless = b"POST /" + b"y" * HTTP1_HEAD
    assert check(cut(endless, 1))[1] == endless[:HTTP1_HEAD]
    assert check(cut(long, 1))[1] == long[:HTTP1_HEAD]
    found, moved = check([OK + long[: HTTP1_HEAD - 1], long[HTTP1_HEAD - 1 :]])
    assert len(found) == 2
    assert moved is None


@pytest.mark.parametrize("size", [FREE_BYTES - 1, FREE_BYTES, FREE_BYTES + 1])
def test_the_longest_body(size: int) -> None:
    data = post(b"x" * size)
    found, moved = check([data])
    assert len(found) == (size <= FREE_BYTES)
    assert moved == (None if size <= FREE_BYTES else data)
    top = data.index(b"\r\n\r\n") + 4
    early = check([data[:top], data[top : top + 1000]])[1]
    assert early == (None if size <= FREE_BYTES else data[:top])


def test_bodies_beyond_the_limit_of_the_server() -> None:
    """Python words the 413."""
    for size in (9, 10):
        assert bodies(check([post(b"x" * size)], max_body_bytes=10)[0]) == [b"x" * size]
    assert check([OK + post(b"x" * 11)], max_body_bytes=10)[1] == post(b"x" * 11)
    assert check([post(b"x" * 11)[:-11]], max_body_bytes=10)[1] == post(b"x" * 11)[:-11]


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "P", "POS"]
)
def test_other_methods(method: str) -> None:
    data = b"%s /v1/models/m:predict HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" % method.encode()
    assert check([OK, data])[1] == data


def test_close_ends_the_connection() -> None:
    for close in (b"Connection: close", b"connection:Close"):
        data = post(b"{}", close)
        found, moved = check([data + OK + b"nonsense"])
        assert [answer.last for answer in found] == [True]
        assert moved is None
        assert check([data, OK]) == (found, None)
    found, _ = check([OK + LAST + OK])
    assert [answer.last for answer in found] == [False, True]


# -- no request is read in two ways

NAMES = st.sampled_from(
    [
        b"Content-Length", b"content-length", b"Content-Length ", b" Content-Length", b"Connection", b"Host", b"X",
        b"Transfer-Encoding", b"Expect", b"Upgrade", b"Accept-Encoding", b"Proxy-Connection", b"", b"X\0", b"Keep-Alive",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        [
            b"0", b"1", b"2", b"02", b"+2", b" 2 ", b"\t2", b"2\t", b"2 \t ", b"2,2", b"2 2", b"0x2", b"", b"chunked",
            b"close", b"Close", b"close ", b"close,", b"keep-alive", b"keep-alive, close", b"Upgrade", b"h2c", b"100-continue",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\n\r\n"])
LINES = st.sampled_from(
    [b"POST /v1/models/m:predict HTTP/1.1"] * 8
    + [
        b"POST /v1/models/m/versions/3:predict HTTP/1.1",
        b"POST /v1/models/m/labels/x:predict HTTP/1.1",
        b"POST /v1/models/m:predict HTTP/1.0",
        b"POST /v1/models/m:predict  HTTP/1.1",
        b"POST  /v1/models/m:predict HTTP/1.1",
        b"GET /v1/models/m:predict HTTP/1.1",
        b"",
    ]
)
COLONS = st.sampled_from([b": "] * 6 + [b":", b" :", b":\t", b""])


@st.composite
def requests(draw: Any) -> bytes:
    """Nearly a request: usually one, with something odd about it."""
    made = draw(LINES) + draw(ENDS)
    for _ in range(draw(st.integers(0, 3))):
        made += draw(NAMES) + draw(COLONS) + draw(VALUES) + draw(ENDS)
    if draw(st.integers(0, 3)):
        made += b"Content-Length: 2" + draw(ENDS)
    return bytes(made + draw(ENDS) + draw(st.sampled_from([b"{}", b"{}", b"{", b"", b"\r\n", b"{}x"])))


@st.composite
def connections(draw: Any) -> list[bytes]:
    data = b"".join(draw(st.lists(st.one_of(requests(), st.just(OK)), min_size=1, max_size=4)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)]) if a < b]


@given(connections())
@example([head(b"Content-Length: 2\t") + b"{}"])
@example([head(b"Content-Length: \t2") + b"{}"])
@example([head(b"Content-Length: 2 \t ") + b"{}"])
@example([head(b"Connection: close\t", b"Content-Length: 2") + b"{}"])
@example([head(b"Connection: close ", b"Content-Length: 2") + b"{}"])
@example([head(b"Connection:\tclose", b"Content-Length: 2") + b"{}"])
@example([head(b"Connection: keep-alive \t", b"Content-Length: 2") + b"{}"])
@example([head(b"Connection: close", b"Connection: keep-alive", b"Content-Length: 2") + b"{}" + OK])
@example([head(b"Connection: keep-alive", b"Connection: close", b"Content-Length: 2") + b"{}" + OK])
def test_no_request_is_read_in_two_ways(pieces: list[bytes]) -> None:
    """`check` is the property: method, target, body, keep-alive and the end of each answered request are the referee's."""
    check(pieces)


@given(st.binary(max_size=200))
def test_bytes_that_are_nothing(data: bytes) -> None:
    check([data or b"x"])


@given(st.sampled_from(TAKEN + list(FOREIGN.values())), st.integers(0, 200), st.integers(0, 255))
def test_one_changed_byte(request_head: bytes, at: int, byte: int) -> None:
    data = bytearray(request_head[:3000] + b"{}")
    data[at % len(data)] = byte
    check([bytes(data) + OK])


def test_the_referee_knows_what_it_says() -> None:
    """A referee that sees nothing would agree with everybody."""
    [first, last] = referee(OK + LAST)
    assert (first.body, first.keep_alive, first.end) == (b"first", True, len(OK))
    assert (last.body, last.keep_alive, last.target) == (b"last", False, b"/v1/models/m:predict")
    assert referee(FOREIGN["two lengths"] + b"{}") == []
