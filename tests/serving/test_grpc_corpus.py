"""Every kept byte stream of the native transport's fuzzer again, whole and in pieces; the name of the file says what it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import DATA, frames, message  # noqa: E402

FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = sorted((FUZZ / "corpus_http2").iterdir())
sys.path.insert(0, str(FUZZ))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_kept_streams(path: Path) -> None:
    import fuzz_http2

    fuzz_http2.check(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("echo", [b"hello"]),
        ("two-streams", [b"a", b"b" * 3000]),
        ("split-message", [b"xyz"]),
        ("padded", [b"pad"]),
        ("trailers", [b"t"]),
        ("hold", [b"hold"]),
        ("cold", [b"cold"]),
        ("gzip", [b"abc" * 3000]),
        ("hold-and-reset", [b"next"]),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 1 << 20])
def test_answers_do_not_depend_on_how_bytes_are_split(name: str, answers: list[bytes], size: int) -> None:
    data = (FUZZ / "corpus_http2" / name).read_bytes()
    written = _fastpath._probe_http2_feed([data[at : at + size] for at in range(0, len(data), size)])
    bodies: dict[int, bytes] = {}
    for kind, _, stream, payload in frames(written):
        if kind == DATA:
            bodies[stream] = bodies.get(stream, b"") + payload
    assert sorted(bodies.values()) == sorted(map(message, answers))


def test_a_header_block_in_several_frames() -> None:
    """Not byte by byte: nghttp2 1.52 counts every piece of a CONTINUATION's frame header as one more CONTINUATION."""
    data = (FUZZ / "corpus_http2" / "continuation").read_bytes()
    written = _fastpath._probe_http2_feed([data[at : at + 9] for at in range(0, len(data), 9)])
    assert (DATA, 0, 1, message(b"c")) in frames(written)


def test_the_mutation_loop_finds_nothing_in_a_moment() -> None:
    import fuzz_http2

    assert fuzz_http2.run(seconds=0.5, seed=7) > 20
