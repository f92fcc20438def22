"""House rule: files of at most 500 lines (tests 800), functions of at most 60."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tfs", "tools", "bench", "tests", "protos", "examples")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".proto"}
# What is copied as it is, or made by tools.
NOT_OURS = ("tests/conformance/", "tests/.cache/", "bench/.cache/")

FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and not str(path.relative_to(ROOT)).startswith(NOT_OURS)
)


def test_files_are_found() -> None:
    assert "tfs/errors.py" in FILES
    assert "tfs/_fast/types.pxi" in FILES


@pytest.mark.parametrize("name", FILES)
def test_length_of_files(name: str) -> None:
    limit = 800 if name.startswith("tests/") else 500
    assert len((ROOT / name).read_text().splitlines()) <= limit


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_length_of_functions(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > 60]
    assert long == []
