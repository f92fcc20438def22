"""What importing the client costs and brings along."""

from __future__ import annotations

import os
import subprocess
import sys

from support import plain_environment

# numpy costs 0.06 to 0.1 s, whoever imports it; `python -m bench client` holds the sum against 0.25 s on the clock.
OWN_LIMIT_S = 0.1  # 0.02 to 0.05 s measured
ROUNDS = 8
IMPORT = "from tfs.client import AsyncClient, Client"


def cpu_s(code: str) -> float:
    """CPU time of a fresh interpreter that runs `code`: what the clock shows where nobody else works."""
    process = subprocess.Popen([sys.executable, "-c", code], env=plain_environment())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    process.returncode = 0
    return usage.ru_utime + usage.ru_stime


def test_the_import_is_quick() -> None:
    """Rounds alternate, so that a slow minute of the machine hits both."""
    pairs = [(cpu_s("import numpy"), cpu_s(IMPORT)) for _ in range(ROUNDS)]
    needed, ours = (min(column) for column in zip(*pairs, strict=True))
    assert ours - needed <= OWN_LIMIT_S


def test_what_waits_for_the_first_client() -> None:
    """As much again as everything else, and not needed to read types, files or by the REST client."""
    code = (
        IMPORT
        + "; import sys; print(*sorted({'grpc', 'asyncio', 'http.client', 'ml_dtypes'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain_environment()
    )
    assert done.stdout.split() == []


def test_it_needs_numpy_and_grpcio_only() -> None:
    code = """
import sys
for name in ("google.protobuf", "tensorflow", "ml_dtypes", "tensorflow_serving"):
    sys.modules[name] = None
import tfs.client
from tfs.client import RestClient
client = tfs.client.Client("127.0.0.1:1", retries=0)
try:
    client.predict("m", {"x": [1.0]}, timeout=5)
except tfs.client.TfsError as error:
    assert error.code == tfs.client.Code.UNAVAILABLE, error
else:
    raise AssertionError
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=plain_environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_names_of_the_package() -> None:
    from tfs import client

    for name in client.__all__:
        assert getattr(client, name) is not None
