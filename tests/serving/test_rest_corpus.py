"""Every kept byte stream of the REST transport's fuzzer again, whole and in pieces; the name of the file says what it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

import http1_support  # noqa: E402

FUZZ = Path(__file__).parents[1] / "fuzz"
CORPUS = sorted((FUZZ / "corpus_http1").iterdir())
sys.path.insert(0, str(FUZZ))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_kept_streams(path: Path) -> None:
    import fuzz_http1

    fuzz_http1.check(path.read_bytes())


@pytest.mark.parametrize(
    ("name", "statuses", "left"),
    [
        ("plain", [200], None),
        ("pipeline", [200] * 4, None),
        ("close", [200], None),
        ("keep-alive", [200, 200], None),
        ("error", [203], None),
        ("held", [200, 200], None),
        ("held-and-foreign", [200], b"GET"),
        ("classify", [200], b"POST"),
        ("partial", [200], None),
        ("body-like-a-request", [200, 200], None),
        ("odd-spaces", [200], None),
        ("chunked", [], b"POST"),
        ("chunked-and-length", [], b"POST"),
        ("two-lengths", [], b"POST"),
        ("too-large", [], b"POST"),
    ],
)
def test_seeds_are_what_their_names_say(name: str, statuses: list[int], left: bytes | None) -> None:
    data = (FUZZ / "corpus_http1" / name).read_bytes()
    found, moved = http1_support.check([data], max_body_bytes=10_000)
    assert [answer.status for answer in found] == statuses
    assert (moved is None) == (left is None)
    assert moved is None or moved.startswith(left or b"")


def test_the_mutation_loop_finds_nothing_in_a_moment() -> None:
    import fuzz_http1

    assert fuzz_http1.run(seconds=0.5, seed=7) > 20
