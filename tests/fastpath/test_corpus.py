"""Every kept request again: the seeds of the fuzzer and whatever it once found. The name of the file says what it holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_kept_requests_end_as_the_twin_says(both, path: Path) -> None:
    import fuzz_request

    fast, slow = both
    request = path.read_bytes()
    found = fuzz_request.outcome(fast.decode, request)
    assert found == fuzz_request.outcome(slow.decode, request)
    assert (found == "INVALID_ARGUMENT") == path.name.startswith("malformed")


def test_the_mutation_loop_finds_nothing_in_a_moment(both) -> None:
    import fuzz_request

    assert fuzz_request.run(seconds=0.5, seed=7) > 50
