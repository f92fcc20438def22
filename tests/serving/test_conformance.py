"""Our answers against the reference server's own: every scored case recorded in tests/conformance must agree.

The checker runs once for all areas (it starts about 200 servers, two at a time); then each area is a test of its own.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import plain_environment

CONFORMANCE = Path(__file__).parents[1] / "conformance"
SERVER = "import sys; from tfs.cli import tensorflow_model_server; sys.exit(tensorflow_model_server())"
CASE = re.compile(r'"id": "([a-z_]+)/')
AREAS = sorted(
    {
        area
        for path in (CONFORMANCE / "golden").glob("*.jsonl")
        for area in CASE.findall(path.read_text(encoding="utf-8"))
    }
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The checker's verdict per case."""
    path = tmp_path_factory.mktemp("conformance") / "report.json"
    command = [sys.executable, "check.py", "--json", str(path), "--timeout", "800", "--server"]
    command.append(shlex.join([sys.executable, "-c", SERVER]))
    done = subprocess.run(
        command,
        cwd=CONFORMANCE,
        capture_output=True,
        text=True,
        env=plain_environment(),
        check=False,
        timeout=880,
    )
    assert path.exists(), f"the checker ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


@pytest.mark.parametrize("area", AREAS)
def test_area_agrees_with_the_reference(report: list[dict[str, Any]], area: str) -> None:
    cases = [case for case in report if case["scored"] and case["id"].startswith(area + "/")]
    failed = [
        f"{case['id']}\n  want {json.dumps(case['expected'])[:600]}\n  got  {json.dumps(case['got'])[:600]}"
        for case in cases
        if not case["pass"]
    ]
    assert cases
    assert not failed, f"{len(failed)} of {len(cases)} differ:\n" + "\n".join(failed)
