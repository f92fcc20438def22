"""House rule: commands in the documentation work.  docs_blocks.py says what the marks mean.

Blocks marked `run` are executed page by page, in order, in one directory with `models/half_plus_two` (versions 1 and 2, labels stable
and canary) and a server for it; the ports 8500 and 8501 of the text stand for that server's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from house.docs_blocks import MARKED, ROOT, Block, blocks, counts, pages
from support import Server, plain_environment

from tfs import cli
from tfs.command_line import parse
from tfs.commands import shared

# page -> blocks that are (run, parsed, shown).  A block that loses its mark, or a page that loses a block, shows here.
COUNTS = {
    "README.md": (0, 1, 0),
    "bench/README.md": (0, 1, 0),
    "docs/batching.md": (0, 1, 0),
    "docs/clients.md": (3, 1, 0),
    "docs/config.md": (1, 0, 0),
    "docs/deployment.md": (0, 2, 0),
    "docs/migration.md": (0, 1, 0),
    "docs/performance.md": (1, 1, 0),
    "docs/quickstart.md": (5, 3, 0),
    "docs/security.md": (0, 1, 0),
    "docs/troubleshooting.md": (1, 0, 0),
    "docs/versions-and-labels.md": (1, 1, 0),
    "examples/jpeg/README.md": (0, 1, 0),
    "examples/mnist/README.md": (0, 1, 1),
    "examples/nodejs/README.md": (0, 1, 0),
    "examples/rollout/README.md": (0, 1, 0),
    "examples/spam/README.md": (0, 1, 0),
    "examples/subclassed/README.md": (0, 1, 0),
    "examples/tf1/README.md": (0, 1, 0),
    "examples/tls/README.md": (0, 1, 0),
}
CONFIG = """model_config_list {{ config {{
  name: "half_plus_two" base_path: "{base}" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
  version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 2 }}
}} }}
"""
# Programs that a parsed block may start beside ours.
KNOWN = {"cd", "curl", "docker", "git", "grpcurl", "kubectl", "node", "npm", "pip"}


def of_mark(mark: str) -> list[Block]:
    return [block for page in pages() for block in blocks(page) if block.mark == mark]


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


# --- the marks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages())
def test_every_block_says_its_language_and_commands_their_mark(page: str) -> None:
    wrong = [
        name_of(one) for one in blocks(page) if not one.language or (one.language in MARKED) != bool(one.mark)
    ]
    assert not wrong, (
        f"{wrong}: expected a language, and one of the marks before {' and '.join(MARKED)} alone"
    )


def test_as_many_blocks_are_tried_as_there_should_be() -> None:
    assert {page: found for page in pages() if any(found := counts(page))} == COUNTS


# --- run ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[Path, Server]]:
    """A directory as a reader would have it, and the server."""
    directory = tmp_path_factory.mktemp("docs")
    base = directory / "models" / "half_plus_two"
    for version in ("1", "2"):
        shutil.copytree(models / "half_plus_two" / "1", base / version)
    (directory / "models" / "models.config").write_text(CONFIG.format(base=base))
    programs = directory / "bin"
    programs.mkdir()
    for name, start in {"python": "", "tfs": "-m tfs"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
        (programs / name).chmod(0o755)
    flags = [
        f"--model_config_file={directory}/models/models.config",
        "--allow_version_labels_for_unavailable_models",
    ]
    server = Server(directory, flags, None).wait_ready()
    yield directory, server
    server.stop()


@pytest.mark.parametrize("page", sorted({block.page for block in of_mark("run")}))
def test_run(page: str, place: tuple[Path, Server]) -> None:
    directory, server = place
    ports = {"8500": str(server.grpc_port), "8501": str(server.rest_port)}
    environment = plain_environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PATH"] = f"{directory}/bin:{os.environ['PATH']}"
    for block in (one for one in blocks(page) if one.mark == "run"):
        text = re.sub(r"(?<=localhost:)(8500|8501)\b", lambda found: ports[found[0]], block.text)
        command = (
            ["bash", "-euo", "pipefail", "-c", text] if block.language == "sh" else ["python", "-c", text]
        )
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, (
            f"{name_of(block)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        assert done.stdout or block.language == "python", f"{name_of(block)} printed nothing"


# --- parse --------------------------------------------------------------------------------------------------------------------


class _UnderstoodError(BaseException):
    """The command line was fine; nothing is done."""


def commands(block: Block) -> list[list[str]]:
    """The words of each command, without comments, assignments before it and redirections."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            found.append(words)
    return found


def served(flags: list[str]) -> None:
    parsed = parse(flags)
    assert not parsed.unknown
    assert not parsed.errors


def understand(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a command is none: an unknown program, flag, sub-command, target or group."""
    program, rest = words[0].rsplit("/", 1)[-1], words[1:]
    if program == "python":
        script = Path(*rest[1].split(".")) if rest[0] == "-m" else Path(rest[0])
        places = [ROOT / script, ROOT / script.with_suffix(".py")]
        assert any(place.exists() for place in places), f"no such module or script: {script}"
    elif program == "tensorflow_model_server" or words[:2] == ["tfs", "serve"]:
        served(rest[program == "tfs" :])
    elif program == "tfs":
        sub_command(rest, monkeypatch)
    elif program == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program == "docker" and rest[0] == "run":
        image = next(n for n, word in enumerate(rest) if re.fullmatch(r"tfs(:\w+)?", word))
        served(rest[image + 1 :])
    else:
        assert program in KNOWN, f"an unknown program: {program}"
        for path in (word for word in rest if word.startswith("deploy/")):
            assert (ROOT / path).exists(), path


def sub_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = shared.Parser.parse_args

    def parse_args(self: shared.Parser, arguments: list[str]) -> NoReturn:  # type: ignore[override]
        genuine(self, arguments)
        raise _UnderstoodError

    monkeypatch.setattr(shared.Parser, "parse_args", parse_args)
    with pytest.raises(_UnderstoodError):
        cli.main(words)


@pytest.mark.parametrize("block", of_mark("parse"), ids=name_of)
def test_parse(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block.language == "sh", "Python is run or shown"
    assert commands(block)
    for words in commands(block):
        understand(words, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        "make nothing",
        "python -m examples.nothing.run",
        "tfs serve --modle_name=m",
        "tfs statsu h:1",
        "docker run tfs --nothing",
        "rm -r /",
    ],
)
def test_what_is_wrong_is_not_understood(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        understand(words.split(), monkeypatch)
