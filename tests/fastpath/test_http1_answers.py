"""What the reader of REST requests on the I/O threads answers: packed or not, and errors as Python words them.  Without a socket."""

from __future__ import annotations

import gzip
import itertools
import json

import pytest
from http1_support import GZIP_MIN_BYTES, Answer, answers, check, post
from hypothesis import example, given
from hypothesis import strategies as st

from tfs import _fastpath
from tfs.transport.rest import _wants_gzip
from tfs.transport.rest_answers import error_body

if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

OK = post(b"first")


# -- gzip


def wants(value: bytes) -> bool:
    """What Python makes of the header's value."""
    return _wants_gzip({"headers": [(b"accept-encoding", value)]})


def packs(value: bytes, *more: bytes) -> bool:
    body = b"z" * GZIP_MIN_BYTES
    found, moved = check([post(body, b"Accept-Encoding: " + value, *more)])
    assert moved is None
    assert len(found) == 1
    return found[0].headers.get(b"c") == b"d"


ENCODINGS = [
    b"gzip", b"GZIP", b"x-gzip", b"X-GZip", b"*", b"identity", b"br", b"", b",", b",,gzip", b"gzip,", b"deflate, gzip;q=1.0, *;q=0.5",
    b"gzip;q=0", b"gzip;q=0.0", b"gzip;q=0.00", b"gzip;q=0.000", b"gzip;q=0.0000", b"gzip;q=0.", b"gzip;q=0.001", b"gzip;q=1",
    b"gzip;Q=0", b"gzip; q=0", b"gzip ; q=0", b"gzip;q = 0", b"gzip;q=0 0", b"gzip; q=0. 0", b"gzip;q=00", b"gzip;q=", b"gzip;",
    b"gzip;;q=0", b"gzip;q=0;x", b"gzip;x;q=0", b"gzip;q=0, gzip", b"gzip, gzip;q=0", b"*;q=0", b"*;q=0, gzip", b"identity, *;q=0.1",
    b"gzipx", b"xgzip", b"gzi", b"gzip gzip", b"br;gzip", b"br;q=gzip", b"\tgzip\t", b"br ,\tgzip", b"gzip\t;q=0", b"gzip;\tq=0",
    b"gzip;q\xff=0", b"\xffgzip", b"br;q=1.0, gzip;q=0.8, *;q=0.1",
]  # fmt: skip


@pytest.mark.parametrize("value", ENCODINGS)
def test_accept_encoding(value: bytes) -> None:
    assert packs(value) == wants(value.strip(b" \t"))


@given(
    st.lists(
        st.sampled_from(
            [
                b"gzip",
                b"x-gzip",
                b"*",
                b"br",
                b"GZip",
                b",",
                b";",
                b"q=0",
                b"Q=0.0",
                b"q",
                b"=",
                b"0",
                b".",
                b" ",
                b"\t",
                b"1",
            ]
        ),
        max_size=9,
    )
)
def test_any_accept_encoding(parts: list[bytes]) -> None:
    value = b"".join(parts)
    assert packs(value) == wants(value.strip(b" \t"))


def test_only_the_first_accept_encoding_counts() -> None:
    for first, second in itertools.permutations([b"gzip", b"br", b"gzip;q=0", b""], 2):
        headers = [(b"accept-encoding", first), (b"accept-encoding", second)]
        assert packs(first, b"Accept-Encoding: " + second) == _wants_gzip({"headers": headers})


@pytest.mark.parametrize("size", [0, 1, GZIP_MIN_BYTES - 1, GZIP_MIN_BYTES, GZIP_MIN_BYTES + 1, 200_000])
@pytest.mark.parametrize("more", [[], [b"Connection: close"]])
def test_packed_answers(size: int, more: list[bytes]) -> None:
    """Long ones only; two behind one another come in their order."""
    one = post(b"big:%d" % size, b"Accept-Encoding: gzip")
    written, moved = _fastpath._probe_http1_feed([one + post(b"big:%d" % size, b"accept-encoding: *", *more)])
    assert moved is None
    found = answers(written)
    for answer in found:
        packed = len(b"m:") + size >= GZIP_MIN_BYTES
        assert (answer.headers.get(b"c") == b"d") == packed
        body = gzip.decompress(answer.body) if packed else answer.body
        assert body == b"m:" + (b"big:%d" % size)[:size] + b"x" * (size - len(b"big:%d" % size))
        assert not packed or len(answer.body) < len(body)
    assert [answer.last for answer in found] == [False, bool(more)]


def test_long_errors_are_packed_too() -> None:
    found, _ = check([post(b"fail:3:" + b"e" * GZIP_MIN_BYTES, b"Accept-Encoding: gzip")])
    assert found[0].status == 203
    assert gzip.decompress(found[0].body) == error_body("e" * GZIP_MIN_BYTES)


# -- errors


@given(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(lambda text: text.encode("utf-8"))))
@example(b'"\\/\b\f\n\r\t\0\x1f\x7f')
@example("é€\U0001f600\u2028\u2029\ufeff".encode())
@example(b"\xff\xfe\xc3\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80")
@example(b"a:b:c")
@example(b"")
def test_errors_are_pythons_errors(text: bytes) -> None:
    """The same bytes, and JSON of that text; what is no UTF-8 goes through as it is, both ways."""
    [answer], moved = check([post(b"fail:3:" + text)])
    assert moved is None
    words = text.decode("utf-8", "surrogateescape")
    assert answer.status == 203
    assert json.loads(answer.body.decode("utf-8", "surrogateescape")) == {"error": words}
    assert answer.body == error_body(words)


@pytest.mark.parametrize("code", range(1, 17))
def test_each_code_has_its_status(code: int) -> None:
    [answer], _ = check([post(b"fail:%d:text" % code)])
    assert answer == Answer(200 + code, answer.headers, error_body("text"))


@pytest.mark.parametrize("code", [17, 99, 9999999])
def test_an_unknown_code_is_unknown(code: int) -> None:
    [answer], _ = check([post(b"fail:%d:text" % code)])
    assert answer.status == 202


def test_the_connection_goes_on_after_an_error() -> None:
    found, moved = check([post(b"fail:3:no") + OK + post(b"fail:14:no", b"Connection: close") + OK])
    assert [answer.status for answer in found] == [203, 200, 214]
    assert moved is None
