"""The image's entry point, run with a server of our own making: what it starts, with which arguments, in which process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "deploy" / "docker" / "entrypoint.sh"
RECORDER = """#!{python}
import json, os, sys
print(json.dumps([os.getpid(), sys.argv[1:]]))
sys.exit(7)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH on which `tensorflow_model_server` tells its process and arguments and ends with status 7."""
    server = tmp_path / "tensorflow_model_server"
    server.write_text(RECORDER.format(python=sys.executable))
    server.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "MODEL_NAME": "half plus two",
        "MODEL_BASE_PATH": "/models",
    }


def run(environment: dict[str, str], *arguments: str) -> tuple[int, int, list[str], int]:
    """(process started, process of the server, the server's arguments, exit status)."""
    with subprocess.Popen([ENTRYPOINT, *arguments], env=environment, stdout=subprocess.PIPE) as process:
        printed, _ = process.communicate(timeout=30)
    pid, given = json.loads(printed)
    return process.pid, pid, given, process.returncode


def test_the_contract_of_the_reference_image(environment: dict[str, str]) -> None:
    _, _, given, _ = run(environment)
    assert given == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=half plus two",
        "--model_base_path=/models/half plus two",
    ]


def test_more_flags_follow_in_their_order(environment: dict[str, str]) -> None:
    more = ["--model_config_file=/models/my models.config", "--enable_batching", "--rest_api_port=80"]
    _, _, given, _ = run(environment, *more)
    assert given[4:] == more


def test_the_server_is_the_process_that_was_started(environment: dict[str, str]) -> None:
    started, serving, _, status = run(environment)
    assert serving == started, "SIGTERM must reach the server: exec it"
    assert status == 7


def test_the_server_takes_what_it_is_given(environment: dict[str, str]) -> None:
    """The real parser understands those arguments, and a flag that comes again counts last."""
    from tfs.command_line import parse

    _, _, given, _ = run(environment, "--rest_api_port=80")
    parsed = parse(given)
    assert not parsed.unknown
    assert not parsed.errors
    assert parsed.values["model_base_path"] == "/models/half plus two"
    assert parsed.values["rest_api_port"] == 80
