"""docs/flags.md lists every flag as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tfs.flags import FLAGS

ROOT = Path(__file__).resolve().parents[2]


def test_tables_are_what_the_flags_give() -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs_flags.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_flag_is_in_the_page() -> None:
    page = (ROOT / "docs" / "flags.md").read_text()
    assert [name for name in FLAGS if f"| `--{name}` |" not in page] == []
