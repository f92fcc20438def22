"""Copies of recorded models, for commands that write beside them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    """A base path of its own with version 1 of keras_dense."""
    base = tmp_path / "keras_dense"
    shutil.copytree(Path(__file__).parents[2] / "conformance" / "models" / "keras_dense", base)
    return base
