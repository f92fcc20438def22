"""Two servers behind nginx, with deploy/nginx.conf as it is but for its ports, are restarted one after the other under load."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from support import Server, accepts, free_port, wait_until

from tfs.client import Client
from tfs.errors import Cancelled

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
PAUSE_S = 0.02  # between the calls of one thread: some hundred calls in all
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
ENOUGH = 50  # calls of each thread, at least


class Nginx:
    """The balancer: `grpc` and `rest` are where it listens, `upstream` what stands behind, by the port in the file."""

    def __init__(self, directory: Path) -> None:
        self.ports = {written: free_port() for written in (8500, 8501, 8510, 8511, 8520, 8521)}
        text = CONFIG.read_text()
        for written, used in self.ports.items():
            assert f"127.0.0.1:{written}" in text
            text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:PORT{used}")
        for kind in TEMPORARY:  # whose usual places only root may write to
            text = text.replace("http {", f"http {{ {kind}_temp_path {directory}/{kind};", 1)
        path = directory / "nginx.conf"
        path.write_text(text.replace(":PORT", ":"))
        self.log = directory / "nginx.log"
        globals_ = f"daemon off; pid {directory}/nginx.pid; error_log {self.log} info;"
        command = [
            str(nginx_path()),
            "-p",
            str(directory),
            "-e",
            str(self.log),
            "-c",
            str(path),
            "-g",
            globals_,
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)


def nginx_path() -> str | None:
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    if nginx_path() is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    made = Nginx(tmp_path)
    yield made
    made.stop()


class Caller(threading.Thread):
    """Calls again and again until told to stop; keeps what went wrong."""

    def __init__(self, call: Callable[[], float], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.call, self.stop = call, stop
        self.right = 0
        self.wrong: list[str] = []
        self.start()

    def run(self) -> None:
        while not self.stop.wait(PAUSE_S):
            try:
                answer = self.call()
            except Exception as error:  # the test shows whatever it was
                self.wrong.append(repr(error))
            else:
                self.right += answer == 3.0
                self.wrong += [] if answer == 3.0 else [f"answered {answer}"]


def grpc_call(client: Client, repeats: int) -> float:
    """`repeats`: of calls that are CANCELLED; nothing else is tried again."""
    try:
        return float(client.predict("half_plus_two", {"x": [2.0]}, timeout=20)["y"][0])
    except Cancelled:
        if not repeats:
            raise
        return grpc_call(client, repeats - 1)


def rest_call(connection: http.client.HTTPConnection) -> float:
    connection.request("POST", "/v1/models/half_plus_two:predict", '{"instances": [2.0]}')
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, f"{response.status}: {body[:200]!r}"
    return float(json.loads(body)["predictions"][0])


def served(server: Server) -> tuple[bool, bool]:
    """Whether the server has answered a call by (gRPC, REST)."""
    page = requests.get(f"{server.url}/metrics", timeout=10).text
    by_grpc = 'API="Predict",entrypoint=' in page and "request_latency_count" in page
    return by_grpc, 'API="predict",entrypoint=' in page


def test_rolling_restart_loses_no_call(
    nginx: Nginx, start_server: Callable[..., Server], models: Path, transport: str
) -> None:
    def start(number: int) -> Server:
        ports = [nginx.ports[8500 + 10 * number], nginx.ports[8501 + 10 * number]]
        flags = ["--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two"]
        flags += [f"--port={ports[0]}", f"--rest_api_port={ports[1]}"]
        server = start_server(*flags, transport=transport)
        server.grpc_port, server.rest_port = ports
        return server

    servers = [start(1), start(2)]
    for server in servers:
        server.wait_ready()
    wait_until(lambda: accepts(nginx.ports[8500]) and accepts(nginx.ports[8501]), 20, "nginx's ports")

    stop = threading.Event()
    client = Client(f"127.0.0.1:{nginx.ports[8500]}", retries=0)
    # gRPC's own server answers CANCELLED to calls that arrive while it sends GOAWAY (docs/compatibility.md).
    repeats = 0 if transport == "native" else 3
    connections = [http.client.HTTPConnection("127.0.0.1", nginx.ports[8501], timeout=20) for _ in range(2)]
    callers = [Caller(lambda: grpc_call(client, repeats), stop) for _ in range(2)]
    callers += [Caller(lambda one=one: rest_call(one), stop) for one in connections]
    try:
        for number, server in enumerate(servers, 1):
            # nginx gives a server that failed a second's rest; the next one goes when this one works again.
            for one in servers:
                if one.process.poll() is None:
                    wait_until(lambda one=one: all(served(one)), 20, "calls to reach every server")
            server.stop()
            servers[number - 1] = start(number).wait_ready()
        wait_until(lambda: all(served(servers[1])), 20, "calls to reach the last server")
        wait_until(lambda: min(one.right for one in callers) >= ENOUGH, 60, "enough calls")
    finally:
        stop.set()
        for caller in callers:
            caller.join(30)
        client.close()
        for connection in connections:
            connection.close()
    assert [caller.wrong for caller in callers] == [[], [], [], []]
    for server in servers:
        server.stop()
