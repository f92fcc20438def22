"""The native gRPC transport over an engine that echoes, called by h2load, nghttp, curl and @grpc/grpc-js."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_fastpath = pytest.importorskip("tfs._fastpath")
if not _fastpath.HAVE_NATIVE:
    pytest.skip("this build has no native transport (libnghttp2 was not found)", allow_module_level=True)

from native_support import (  # noqa: E402
    PREDICT,
    message,
    native_server,
)
from support import plain_environment  # noqa: E402


@pytest.fixture
def server():
    with native_server() as server:
        yield server


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def test_h2load(server, tmp_path):
    (tmp_path / "body").write_bytes(message(b"hello"))
    done = subprocess.run(
        [need("h2load"), "-n", "20000", "-c", "8", "-m", "32", "-d", str(tmp_path / "body"), "-H", "content-type: application/grpc",
         "-H", "te: trailers", f"http://127.0.0.1:{server.ports[0]}{PREDICT}"],
        capture_output=True, text=True, check=True, timeout=60, env=plain_environment(),
    )  # fmt: skip
    assert "20000 succeeded, 0 failed" in done.stdout
    assert server.stats()["answered"] == 20000


def test_nghttp(server, tmp_path):
    (tmp_path / "body").write_bytes(message(b"hello"))
    done = subprocess.run(
        [need("nghttp"), "-v", "-d", str(tmp_path / "body"), "-H", "content-type: application/grpc",
         f"http://127.0.0.1:{server.ports[0]}{PREDICT}"],
        capture_output=True, check=True, timeout=60, env=plain_environment(),
    )  # fmt: skip
    assert b"grpc-status: 0" in done.stdout


def test_curl(server, tmp_path):
    (tmp_path / "body").write_bytes(message(b"hello"))
    done = subprocess.run(
        [need("curl"), "-sS", "--http2-prior-knowledge", "--data-binary", f"@{tmp_path / 'body'}", "-H",
         "content-type: application/grpc", f"http://127.0.0.1:{server.ports[0]}{PREDICT}"],
        capture_output=True, check=True, timeout=60, env=plain_environment(),
    )  # fmt: skip
    assert done.stdout == message(b"hello")


GRPC_JS = """
const grpc = require('@grpc/grpc-js');
const same = (b) => b;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const call = (path, body, options) => new Promise((done) =>
  client.makeUnaryRequest(path, same, same, body, new grpc.Metadata(), options,
    (error, reply) => done(error ? {code: error.code, details: error.details} : {size: reply.length})));
(async () => {
  const many = await Promise.all([...Array(200).keys()].map((i) => call(process.argv[3], Buffer.alloc(i), {})));
  const out = {
    many: many.every((r, i) => r.size === i),
    large: await call(process.argv[3], Buffer.alloc(3000000), {}),
    error: await call(process.argv[3], Buffer.from('fail:5:caf\\u00e9 %'), {}),
    late: await call(process.argv[3], Buffer.from('hold'), {deadline: Date.now() + 100}),
  };
  console.log(JSON.stringify(out));
  client.close();
})();
"""


def test_grpc_js(server, tmp_path):
    node, npm = need("node"), need("npm")
    home = Path(os.environ.get("TFS_TEST_CACHE", tmp_path)) / "grpc-js"
    if not (home / "node_modules" / "@grpc" / "grpc-js").exists():
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(home), "@grpc/grpc-js@1"],
            check=False, capture_output=True, text=True, timeout=100, env=plain_environment(),
        )  # fmt: skip
        if done.returncode != 0:
            pytest.skip(f"npm could not install @grpc/grpc-js: {done.stderr[-200:]}")
    (home / "client.js").write_text(GRPC_JS)
    done = subprocess.run(
        [node, str(home / "client.js"), f"127.0.0.1:{server.ports[0]}", PREDICT],
        check=True,
        capture_output=True,
        text=True,
        env=plain_environment(),
        timeout=60,
    )
    result = json.loads(done.stdout)
    assert result["many"] is True
    assert result["large"] == {"size": 3000000}
    assert result["error"] == {"code": 5, "details": "café %"}
    assert result["late"]["code"] == 4
