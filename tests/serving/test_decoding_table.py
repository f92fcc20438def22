"""The decoding table against TensorFlow itself: some hundred generated TensorProtos, parsed by both, bit for bit."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import reference
import strategies
from hypothesis import HealthCheck, Phase, given, settings
from support import plain_environment
from wiretools import entry, request

from tfs import _fastpath

SCRIPT = Path(__file__).parents[1] / "models" / "parse_tensors.py"
LARGEST = 10**6  # elements: TensorFlow really allocates what a proto claims


def generated() -> list[bytes]:
    protos: list[bytes] = []

    @settings(
        max_examples=800,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategies.tensors())
    def collect(proto: bytes) -> None:
        protos.append(proto)

    collect()
    return protos


def comparable() -> list[tuple[int, bytes]]:
    """(dtype, proto) of those TensorFlow can be asked about: a known dtype, and not more elements than is polite."""
    chosen = []
    for proto in generated():
        message = reference.request_class().FromString(request(entry("x", proto))).inputs[0].value
        elements = reference.count_elements(tuple(dim.size for dim in message.tensor_shape.dim))
        if message.dtype in reference.DTYPES and (elements is None or elements <= LARGEST):
            chosen.append((message.dtype, proto))
    return chosen


def test_tensors_are_what_tensorflow_makes_of_them() -> None:
    protos = comparable()
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=pickle.dumps(protos),
        capture_output=True,
        env=plain_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    expected = pickle.loads(done.stdout)
    _fastpath.fake_runtime()
    found = [_fastpath._probe_decode(request(entry("x", proto)))["inputs"]["x"] for _, proto in protos]
    wrong = [
        (proto, ours, theirs)
        for (_, proto), ours, theirs in zip(protos, found, expected, strict=True)
        if ours != theirs
    ]
    assert not wrong, wrong[:3]
    assert expected.count("bad") > 20
    assert len(expected) - expected.count("bad") > 200
