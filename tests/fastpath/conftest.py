"""Both codecs behind one face: a test that takes `codec` runs on the compiled one and on its slow twin.

Owns: the `codec` fixture, and the check that no tensor is left behind.  Must not know: what a test decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import reference
from engine_support import Room

from tfs import _fastpath


class Codec(NamedTuple):
    name: str
    decode: Callable[[bytes], dict[str, Any]]
    encode: Callable[..., bytes]

    def tensor(self, request: bytes, alias: str = "x") -> Any:
        """What the input `alias` became."""
        return self.decode(request)["inputs"][alias]


FAST = Codec("fast", _fastpath._probe_decode, _fastpath._probe_encode)
SLOW = Codec("slow", reference.decode, reference.encode)


@pytest.fixture(params=[FAST, SLOW], ids=["fast", "slow"])
def codec(request: pytest.FixtureRequest, fake_tensors: None) -> Codec:
    chosen: Codec = request.param
    return chosen


@pytest.fixture
def fast(fake_tensors: None) -> Codec:
    return FAST


@pytest.fixture
def both(fake_tensors: None) -> tuple[Codec, Codec]:
    return FAST, SLOW


@pytest.fixture
def fake_tensors() -> Iterator[None]:
    """The fake tensor functions; a test gives back every tensor it takes."""
    _fastpath.fake_runtime()
    before = _fastpath.fake_counts()["alive"]
    yield
    assert _fastpath.fake_counts()["alive"] == before, "tensors left behind"


@pytest.fixture
def room(fake_tensors: None) -> Iterator[Room]:
    made = Room()
    yield made
    made.close()
