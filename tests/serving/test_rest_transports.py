"""The same raw requests to a real server with --rest_transport=native and one with uvicorn: the same bytes come back but for the date.

Whoever answers, and whenever a connection changes hands, a client must not be able to tell. And SIGTERM, with both.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from http1_support import answers, head, post
from native_support import RestPeer
from support import Server, has_native_transport, wait_until

if not has_native_transport():
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

TRANSPORTS = ("native", "uvicorn")
MODELS = ("half_plus_two", "echo", "strings", "embedding", "inputs64", "denormal")
PATIENCE_S = 30
HALF = b"/v1/models/half_plus_two"
GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"
FLAGS = ["--rest_api_enable_cors_support", "--rest_max_body_bytes=200000", "--enable_model_warmup=false"]

Pair = tuple[Server, Server]


def io_threads(server: Server) -> int:
    """The I/O threads of the native transport in the process."""
    names = [path.read_text().strip() for path in Path(f"/proc/{server.pid}/task").glob("*/comm")]
    return names.count("tfs-io")


@pytest.fixture(scope="module")
def pair(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One server of each; every test sends the same to both. gRPC has threads of its own in neither, so that the I/O threads tell which
    is which."""
    directory = tmp_path_factory.mktemp("pair")
    one = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" {2} }}'
    label = 'version_labels { key: "stable" value: 1 }'
    text = " ".join(
        one.format(name, models / name, label if name == "half_plus_two" else "") for name in MODELS
    )
    (directory / "models").write_text(f"model_config_list {{ {text} }}")
    flags = [f"--model_config_file={directory / 'models'}", "--allow_version_labels_for_unavailable_models"]
    servers = []
    try:
        for transport in TRANSPORTS:
            chosen = f"--rest_transport={transport}"
            servers.append(Server(directory, [*flags, *FLAGS, chosen], "grpcio").wait_ready())
        native, uvicorn = servers
        assert io_threads(native) > 0
        assert io_threads(uvicorn) == 0
        yield native, uvicorn
    finally:
        for server in servers:
            server.stop()


class Line:
    """A connection that gives answers back as they came, but for the date."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.rest_port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        """Reads on; False at the end of the connection."""
        got = b""
        with contextlib.suppress(ConnectionResetError):
            got = self.socket.recv(1 << 18)
        self.data += got
        return bool(got)

    def answer(self, request: bytes = b"") -> bytes:
        """The next answer, b"" when the connection ends instead."""
        self.send(request)
        while b"\r\n\r\n" not in self.data:
            if not self.more():
                return undated(self.data)
        top = self.data.index(b"\r\n\r\n") + 4
        length = re.search(rb"content-length: (\d+)\r\n", self.data[:top])
        size = top + (int(length[1]) if length and not request.startswith(b"HEAD") else 0)
        while len(self.data) < size and self.more():
            pass
        one, self.data = self.data[:size], self.data[size:]
        return undated(one)

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        while self.more():
            pass
        return undated(self.data)


def undated(data: bytes) -> bytes:
    return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: now", data)


def equally(pair: Pair, talk: Callable[[Line], list[bytes]]) -> list[bytes]:
    """What both servers answered; fails when they differ."""
    found = []
    for server in pair:
        with Line(server) as line:
            found.append(talk(line))
    assert found[0] == found[1]
    return found[0]


def one_by_one(*sent: bytes) -> Callable[[Line], list[bytes]]:
    return lambda line: [line.answer(request) for request in sent]


def at_once(*sent: bytes) -> Callable[[Line], list[bytes]]:
    """Ends with a request that closes the connection."""
    last = b"GET /v1/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

    def talk(line: Line) -> list[bytes]:
        line.send(b"".join(sent) + last)
        return [line.rest()]

    return talk


def statuses(found: list[bytes]) -> list[int]:
    return [int(one.split()[1]) for one in found if one]


def predict(body: bytes, target: bytes = HALF + b":predict", *headers: bytes) -> bytes:
    return post(body, *headers, target=target)


ROWS = predict(b'{"instances": [1.0, 2.0, 5.0]}')
PREDICTS = {
    "rows": (ROWS, 200),
    "columns": (predict(b'{"inputs": {"x": [1.0]}}'), 200),
    "unnamed column": (predict(b'{"inputs": [1, 2]}'), 200),
    "named rows": (predict(b'{"instances": [{"x": 1}, {"x": 2e3}]}'), 200),
    "signature": (predict(b'{"signature_name": "serving_default", "instances": [1]}'), 200),
    "what follows": (predict(b'{"instances": [1]} and so on'), 200),
    "version": (predict(b'{"instances": [1]}', HALF + b"/versions/1:predict"), 200),
    "version with zeros": (predict(b'{"instances": [1]}', HALF + b"/versions/0001:predict"), 200),
    "label": (predict(b'{"instances": [1]}', HALF + b"/labels/stable:predict"), 200),
    "not finite": (predict(b'{"instances": [NaN, Infinity, -Infinity]}', b"/v1/models/echo:predict"), 200),
    "scalar": (predict(b'{"inputs": 1.5}', b"/v1/models/echo:predict"), 200),
    "matrix": (predict(b'{"instances": [[1, 2], [3, 4]]}', b"/v1/models/echo:predict"), 200),
    "text": (predict('{"instances": ["é\\u0001 \\"x\\""]}'.encode(), b"/v1/models/strings:predict"), 200),
    "base64": (predict(b'{"instances": [{"b64": "AP/+"}]}', b"/v1/models/strings:predict"), 200),
    "integers": (predict(b'{"instances": [1]}', b"/v1/models/embedding:predict"), 200),
    "unknown signature": (predict(b'{"signature_name": "a\\"\\u001f\\n\xc3\xa9", "instances": [1]}'), 400),
    "missing model": (predict(b'{"instances": [1]}', b"/v1/models/nobody:predict"), 404),
    "dots": (predict(b'{"instances": [1]}', b"/v1/models/..:predict"), 404),
    "missing version": (predict(b'{"instances": [1]}', HALF + b"/versions/7:predict"), 404),
    "version 0": (predict(b'{"instances": [1]}', HALF + b"/versions/0:predict"), 404),
    "long version": (predict(b'{"instances": [1]}', HALF + b"/versions/%s:predict" % (b"9" * 18)), 404),
    "longer version": (predict(b'{"instances": [1]}', HALF + b"/versions/%s:predict" % (b"9" * 19)), 400),
    "missing label": (predict(b'{"instances": [1]}', HALF + b"/labels/nothing:predict"), 400),
    "no body": (predict(b""), 400),
    "half a body": (predict(b'{"instances": [1.0'), 400),
    "nonsense": (predict(b"nonsense\x00\x1f\x7f\xff"), 400),
    "no object": (predict(b"[1]"), 400),
    "wrong key": (predict(b'{"rows": [1]}'), 400),
    "both keys": (predict(b'{"instances": [1], "inputs": [1]}'), 400),
    "wrong input": (predict(b'{"inputs": {"y": [1]}}'), 400),
    "missing input": (predict(b'{"instances": [{"x00": 1}]}', b"/v1/models/inputs64:predict"), 400),
    "no rows": (predict(b'{"instances": []}'), 400),
    "text for a number": (predict(b'{"instances": ["a"]}'), 400),
    "boolean for a number": (predict(b'{"instances": [true]}'), 400),
    "fraction for an integer": (predict(b'{"instances": [1.5]}', b"/v1/models/embedding:predict"), 400),
    "too large an integer": (predict(b'{"instances": [9223372036854775808]}', b"/v1/models/embedding:predict"), 400),
    "ragged": (predict(b'{"instances": [[1, 2], [3]]}'), 400),
    "two dimensions": (predict(b'{"instances": [[1, 2]]}'), 200),
    "wrong shape": (predict(b'{"instances": [[1, 2]]}', b"/v1/models/denormal:predict"), 400),
    "deep": (predict(b'{"instances": ' + b"[" * 1000), 400),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICTS)
def test_a_predict(pair: Pair, name: str) -> None:
    """Twice, because uvicorn's second one goes another way."""
    request, status = PREDICTS[name]
    found = equally(pair, one_by_one(request, request))
    assert statuses(found) == [status] * 2
    assert found[0] == found[1]
    assert b"access-control-allow-origin: *\r\n" in found[0] or not found[0].endswith(b"}")


def test_all_of_them_in_one_pipeline(pair: Pair) -> None:
    everything = [request for request, _ in PREDICTS.values()]
    [found] = equally(pair, at_once(*everything))
    assert found.count(b"HTTP/1.1 ") == len(everything) + 1


@pytest.mark.parametrize("name", ["rows", "missing model", "nonsense"])
@pytest.mark.parametrize("connection", [b"close", b"Close", b"keep-alive", b"close, TE", b"TE"])
def test_keep_alive(pair: Pair, name: str, connection: bytes) -> None:
    request = PREDICTS[name][0].replace(b"Host", b"Connection: %s\r\nHost" % connection)
    [found] = equally(pair, at_once(request))
    assert found.count(b"HTTP/1.1 ") == (1 if connection.lower().startswith(b"close") else 2)


ODD = {
    "chunked": head(b"Host: h", b"Transfer-Encoding: chunked", line=b"POST %s:predict HTTP/1.1" % HALF)
    + b'10\r\n{"instances": [1\r\n2\r\n]}\r\n0\r\n\r\n',
    "gzip": predict(gzip.compress(b'{"instances": [1]}'), HALF + b":predict", b"Content-Encoding: gzip"),
    "no gzip": predict(b"{}", HALF + b":predict", b"Content-Encoding: gzip"),
    "other expectation": predict(b"{}", HALF + b":predict", b"Expect: the worst"),
    "upgrade": predict(b'{"instances": [1]}', HALF + b":predict", b"Connection: Upgrade", b"Upgrade: h2c"),
    "query": predict(b'{"instances": [1]}', HALF + b":predict?x=1"),
    "percent": predict(b'{"instances": [1]}', b"/v1/models/half%5Fplus_two:predict"),
    "absolute": predict(b'{"instances": [1]}', b"http://h" + HALF + b":predict"),
    "upper case": predict(b'{"instances": [1]}', b"/V1/MODELS/half_plus_two:predict"),
    "upper-case verb": predict(b'{"instances": [1]}', HALF + b":PREDICT"),
    "classify": predict(b'{"examples": [{"x": 1.0}]}', HALF + b":classify"),
    "empty label": predict(b"{}", HALF + b"/labels/:predict"),
    "signed version": predict(b"{}", HALF + b"/versions/-1:predict"),
    "long body": predict(b'{"instances": [1]' + b" " * 70_000 + b"}"),
    "larger than allowed": predict(b" " * 200_001),
    "http 1.0": post(b'{"instances": [1]}', line=b"POST %s:predict HTTP/1.0" % HALF),
    "two lengths": head(b"Content-Length: 2", b"Content-Length: 2", line=b"POST %s:predict HTTP/1.1" % HALF) + b"{}",
    "signed length": head(b"Content-Length: +2", line=b"POST %s:predict HTTP/1.1" % HALF) + b"{}",
    "no length": head(b"Host: h", line=b"POST %s:predict HTTP/1.1" % HALF),
    "length and chunked": head(b"Content-Length: 2", b"Transfer-Encoding: chunked", line=b"POST %s:predict HTTP/1.1" % HALF),
    "folded": head(b"X: a", b" b", b"Content-Length: 2", line=b"POST %s:predict HTTP/1.1" % HALF) + b"{}",
    "bare LF": ROWS.replace(b"\r\n", b"\n"),
    "NUL": ROWS.replace(b"Host: h", b"Host: \0"),
    "lower-case method": ROWS.replace(b"POST", b"post"),
    "unknown method": ROWS.replace(b"POST", b"BREW"),
    "blank lines before": b"\r\n\r\n" + ROWS,
    "GET": GET % HALF,
    "HEAD": b"HEAD %s HTTP/1.1\r\nHost: h\r\n\r\n" % HALF,
    "OPTIONS": b"OPTIONS %s:predict HTTP/1.1\r\nHost: h\r\nOrigin: http://h\r\n\r\n" % HALF,
    "OPTIONS without origin": b"OPTIONS %s:predict HTTP/1.1\r\nHost: h\r\n\r\n" % HALF,
    "PUT": b"PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n" % HALF,
    "metadata": GET % (HALF + b"/metadata"),
    "models": GET % b"/v1/models",
    "nothing there": GET % b"/nothing",
}  # fmt: skip


BROKEN = {
    "two lengths", "signed length", "length and chunked", "folded", "bare LF", "NUL", "lower-case method", "unknown method",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_the_io_threads_leave_to_python(pair: Pair, name: str) -> None:
    """Alone, before and after Predicts that they answer, one by one and in one write."""
    odd = ODD[name]
    equally(pair, one_by_one(odd))
    found = equally(pair, one_by_one(ROWS, odd))
    assert statuses(found)[0] == 200
    equally(pair, at_once(odd, ROWS))
    if name not in BROKEN:
        equally(pair, at_once(ROWS, odd, ROWS))
        equally(pair, at_once(ROWS, ROWS, odd))


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_what_is_no_http_behind_a_predict(pair: Pair, name: str) -> None:
    """In one write. uvicorn ends the connection with the answer before, when that was not out yet, or tells what is wrong in one more."""
    for ahead in (1, 2, 5):
        for server in pair:
            with Line(server) as line:
                [found] = at_once(*[ROWS] * ahead, ODD[name], ROWS)(line)
            codes = re.findall(rb"HTTP/1.1 (\d+)", found)
            assert codes[:ahead] == [b"200"] * ahead
            assert codes[ahead:] in ([], [b"400"], [b"501"])
            assert not codes[ahead:] or found.count(b"connection: close") == 1


def test_a_connection_that_changes_hands_goes_on(pair: Pair) -> None:
    kinds = ["GET", "OPTIONS", "metadata", "models", "chunked", "gzip", "classify", "HEAD", "long body"]
    sent = [ROWS]
    for kind in kinds:
        sent += [ODD[kind], ROWS]
    found = equally(pair, one_by_one(*sent))
    assert len(statuses(found)) == len(sent)
    assert set(statuses(found)[::2]) == {200}


def test_pages_after_a_predict(pair: Pair) -> None:
    """Their bodies tell the time; their heads do not."""

    def talk(line: Line) -> list[bytes]:
        found = [line.answer(ROWS)]
        for page in (b"/metrics", b"/openapi.json"):
            top, _, body = line.answer(GET % page).partition(b"\r\n\r\n")
            assert body
            found.append(re.sub(rb"content-length: \d+", b"", top))
        return [*found, line.answer(ROWS)]

    assert statuses(equally(pair, talk)) == [200] * 4


def test_expect_100_continue(pair: Pair) -> None:
    body = b'{"instances": [1]}'
    request = predict(body, HALF + b":predict", b"Expect: 100-continue")
    top = request[: -len(body)]
    found = equally(pair, one_by_one(ROWS, top, body, ROWS))
    assert statuses(found) == [200, 100, 200, 200]


@pytest.mark.parametrize("accepted", [b"gzip", b"br, gzip;q=0.5", b"*", b"gzip;q=0", b"br"])
def test_large_answers(pair: Pair, accepted: bytes) -> None:
    """What is packed need not be the same bytes, but the same answer."""
    body = json.dumps({"instances": [[number / 7 for number in range(3000)]]}).encode()
    request = predict(body, b"/v1/models/echo:predict", b"Accept-Encoding: " + accepted)

    def talk(line: Line) -> list[bytes]:
        found = []
        for one in [line.answer(request) for _ in range(3)]:
            top, _, packed = one.partition(b"\r\n\r\n")
            if b"content-encoding: gzip" in top:
                assert b"vary: accept-encoding" in top
                top = re.sub(rb"content-length: \d+", b"", top)
                packed = gzip.decompress(packed)
            found += [top, packed]
        return found

    found = equally(pair, talk)
    assert (b"content-encoding: gzip" in found[0]) == (accepted in (b"gzip", b"br, gzip;q=0.5", b"*"))
    assert len(json.loads(found[1])["predictions"][0]) == 3000


def test_bytes_that_come_one_by_one(pair: Pair) -> None:
    """The end of a request is what makes it one, wherever it is read."""

    def talk(line: Line) -> list[bytes]:
        found = []
        for request in (ROWS, ODD["chunked"], ROWS):
            for at in range(len(request)):
                line.send(request[at : at + 1])
            found.append(line.answer())
        return found

    assert statuses(equally(pair, talk)) == [200] * 3


def test_the_same_is_counted(pair: Pair) -> None:
    """After one of each kind; the tests before this one sent the same to both, too."""
    equally(pair, one_by_one(*(request for request, _ in PREDICTS.values())))
    wanted = re.compile(
        r'^.*request_count\{.*$|^.*request_latency_count\{.*entrypoint="REST".*$', re.MULTILINE
    )
    pages = [
        sorted(wanted.findall(requests.get(f"{server.url}/metrics", timeout=10).text)) for server in pair
    ]
    assert pages[0] == pages[1]
    assert any('model_name="half_plus_two"' in line and 'status="OK"' in line for line in pages[0])


# -- the end


@pytest.fixture(params=TRANSPORTS)
def leaving(
    request: pytest.FixtureRequest, start_server: Callable[..., Server], models: Path
) -> Callable[..., Server]:
    """start(model): a ready server with either transport, which is given time to finish its calls."""

    def start(model: str) -> Server:
        return start_server(
            f"--model_name={model}",
            f"--model_base_path={models / model}",
            f"--rest_transport={request.param}",
            f"--shutdown_grace_seconds={PATIENCE_S}",
            "--enable_model_warmup=false",
        ).wait_ready()

    return start


def test_calls_under_way_are_answered_after_sigterm(leaving: Callable[..., Server]) -> None:
    """A model that takes seconds: each of its calls gets its answer and then a clean end; idle connections get the end at once."""
    server = leaving("slow_loop")
    ready = post(b'{"instances": [1.0]}', target=b"/v1/models/slow_loop:predict")
    status = GET % b"/v1/models/slow_loop"
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(RestPeer(server.rest_port)) for _ in range(3)]
        for peer in idle[:2]:
            assert peer.answer(status).status == 200
        busy = [stack.enter_context(RestPeer(server.rest_port, ready)) for _ in range(3)]
        page = f"{server.url}/metrics"
        wait_until(lambda: running(page) == len(busy), 20, "the calls inside the model")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for peer in idle:
            assert peer.rest() == []
        for peer in busy:
            [answer] = peer.rest()
            assert (answer.status, answer.last) == (200, True)
            assert json.loads(answer.body)["predictions"]
        stopping.join(PATIENCE_S)
    assert server.process.returncode == 0


def running(page: str) -> int:
    """Calls under way, those that wait for a runner included."""
    text = requests.get(page, timeout=5).text
    return sum(
        int(float(line.split()[1]))
        for line in text.splitlines()
        if line.startswith(("tfs_running_calls ", "tfs_queued_calls "))
    )


class Caller(threading.Thread):
    """Predicts on one connection, again and again, until the server ends it; what came is judged afterwards."""

    def __init__(self, port: int, request: bytes) -> None:
        super().__init__(daemon=True)
        self.port, self.request = port, request
        self.right = 0
        self.left = b""
        self.wrong: list[str] = []
        self.start()

    def run(self) -> None:
        try:
            with RestPeer(self.port) as peer:
                while not self.call(peer):
                    self.right += 1
        except (AssertionError, OSError) as error:
            self.wrong.append(repr(error))

    def call(self, peer: RestPeer) -> bool:
        """Whether this was the connection's last."""
        with contextlib.suppress(ConnectionError):  # the server closed first: it never saw this one
            peer.send(self.request)
        got = b"?"
        while peer.whole() is None and got:
            got = b""
            with contextlib.suppress(ConnectionError):
                got = peer.socket.recv(1 << 18)
            peer.data += got
        if not got:
            self.left = peer.data  # of an answer: none of it, or the server has cut it
            return True
        [answer] = answers(peer.data)
        peer.data = b""
        assert answer.status == 200 or (answer.status == 503 and answer.last), answer
        if answer.last:
            assert peer.rest() == []
        return answer.last


@pytest.mark.parametrize("request_bytes", [ROWS, ODD["chunked"]], ids=["plain", "chunked"])
def test_sigterm_under_load_cuts_no_answer(leaving: Callable[..., Server], request_bytes: bytes) -> None:
    """Every connection ends after a whole answer; at most the request that met the closing socket goes unanswered, and wholly so."""
    server = leaving("half_plus_two")
    callers = [Caller(server.rest_port, request_bytes) for _ in range(8)]
    wait_until(lambda: min(caller.right for caller in callers) >= 20, PATIENCE_S, "calls on every connection")
    server.stop()
    for caller in callers:
        caller.join(PATIENCE_S)
        assert not caller.is_alive()
    assert [caller.wrong for caller in callers] == [[]] * len(callers)
    assert [caller.left for caller in callers] == [b""] * len(callers)
