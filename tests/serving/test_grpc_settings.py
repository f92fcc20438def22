"""What can be set of the native gRPC transport: channel arguments, the limit of connections, and how these are spread."""

from __future__ import annotations

from pathlib import Path

import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import Peer, message, native_server, wait_for  # noqa: E402

from tfs.errors import TfsError  # noqa: E402


@pytest.fixture
def server():
    with native_server() as server:
        yield server


def test_channel_arguments():
    with native_server(arguments={"grpc.max_concurrent_streams": 2, "grpc.so_reuseport": 1}) as server:
        assert server.ignored_arguments == ["grpc.so_reuseport"]
        with Peer(server.ports[0]) as peer:
            peer.until(lambda: peer.h2.remote_settings.max_concurrent_streams == 2)
    for name, value in (
        ("grpc.keepalive_time_ms", "soon"),
        ("grpc.keepalive_time_ms", 0),
        ("grpc.max_metadata_size", -5),
    ):
        with (
            pytest.raises(TfsError, match=f"channel argument {name} must be"),
            native_server(arguments={name: value}),
        ):
            pass


def test_channel_arguments_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "native.md").read_text()
    assert [name for name in _fastpath._ARGUMENTS if f"| `{name}` |" not in page] == []


def test_connection_limit():
    with native_server(max_connections=3) as server:
        peers = [Peer(server.ports[0]) for _ in range(3)]
        assert all(p.call(b"x")[1] == message(b"x") for p in peers)
        with Peer(server.ports[0], greet=False) as late:
            late.until_closed()
        peers[0].socket.close()
        wait_for(lambda: server.stats()["connections"] == 2)
        with Peer(server.ports[0]) as next_one:
            assert next_one.call(b"x")[1] == message(b"x")
        for one in peers:
            one.socket.close()


def test_connections_are_spread(server):
    peers = [Peer(server.ports[0]) for _ in range(8)]
    assert all(p.call(b"x")[1] == message(b"x") for p in peers)
    assert server.stats()["accepted"] == 8
    assert server.stats()["fewest_connections"] == 4  # of two threads
    for one in peers:
        one.socket.close()
