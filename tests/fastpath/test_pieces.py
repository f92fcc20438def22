"""The allocator of nghttp2's sessions (_fast/pieces.pxi): nobody's memory is another's, and little of it is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfs import _fastpath

if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

SIZES = st.one_of(st.integers(0, 1100), st.sampled_from([0, 1, 63, 64, 65, 960, 961, 1024, 1025, 70_000]))
STEPS = st.lists(
    st.tuples(st.sampled_from(["malloc", "calloc", "realloc", "free"]), st.integers(0, 20), SIZES)
)


@given(STEPS)
def test_pieces_never_meet(steps: list[tuple[str, int, int]]) -> None:
    pieces = _fastpath._ProbePieces()
    held: set[int] = set()
    for step, number, size in steps:
        if step in ("malloc", "calloc") and number in held:
            continue
        if step == "free":  # NULL, when nothing is held
            pieces.free(number)
            held.discard(number)
        elif step == "calloc":
            pieces.calloc(number, size, 1)
            held.add(number)
        else:
            getattr(pieces, step)(number, size)
            held.add(number)
    for number in held:
        pieces.free(number)


def test_a_piece_is_used_again() -> None:
    pieces = _fastpath._ProbePieces()
    pieces.malloc(1, 100)
    pieces.free(1)
    assert pieces.kept() == min(1, pieces.most())  # with the address sanitizer none is kept
    pieces.calloc(2, 10, 12)  # of the same class, and zeroed although it was used
    assert pieces.kept() == 0


def test_large_pieces_are_not_kept() -> None:
    pieces = _fastpath._ProbePieces()
    pieces.malloc(1, 1025)
    pieces.realloc(1, 1 << 20)
    pieces.free(1)
    assert pieces.kept() == 0


def test_a_list_has_an_end() -> None:
    pieces = _fastpath._ProbePieces()
    for number in range(pieces.most() + 50):
        pieces.malloc(number, 10)
    for number in range(pieces.most() + 50):
        pieces.free(number)
    assert pieces.kept() == pieces.most()


@pytest.mark.parametrize(
    ("step", "numbers"),
    [("malloc", (2, 2**64 - 1)), ("calloc", (2, 2**33, 2**33)), ("realloc", (1, 2**64 - 1))],
)
def test_impossible_sizes(step: str, numbers: tuple[int, ...]) -> None:
    pieces = _fastpath._ProbePieces()
    pieces.malloc(1, 5000)
    with pytest.raises(MemoryError):
        getattr(pieces, step)(*numbers)
    pieces.free(1)
