"""The two codecs of the client behind one face, and a gRPC server whose answers a test chooses.

Owns: the fixtures `codec`, `answering`.  Must not know: what a test asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from client_server import Answering

from tfs import _fastpath
from tfs.client import _codec_py


class Codec(NamedTuple):
    encode: Callable[..., bytes]
    decode: Callable[[bytes], Any]


FAST = Codec(_fastpath.client_encode, _fastpath.client_decode)
SLOW = Codec(_codec_py.client_encode, _codec_py.client_decode)


@pytest.fixture(params=[FAST, SLOW], ids=["fast", "slow"])
def codec(request: pytest.FixtureRequest) -> Codec:
    chosen: Codec = request.param
    return chosen


@pytest.fixture
def answering() -> Iterator[Answering]:
    server = Answering()
    yield server
    server.server.stop(None).wait()
