"""House rule: every RPC, error class and command is in the documentation, and the site builds without a warning.
(Flags and metrics: test_docs_flags.py, test_docs_metrics.py.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tfs import cli
from tfs.errors import Code, TfsError

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
PICTURES = [
    (page, name)
    for page, text in PAGES.items()
    for name in re.findall(r"\.\./bench/pictures/(\w+\.png)", text)
]


def methods() -> set[str]:
    protos = (ROOT / "protos" / "tensorflow_serving").rglob("*.proto")
    return {
        name for path in protos for name in re.findall(r"^\s*rpc (\w+)\(", path.read_text(), re.MULTILINE)
    }


def test_every_method_is_in_the_page_of_the_grpc_api() -> None:
    assert {"Predict", "HandleReloadConfigRequest"} <= methods()
    assert {name for name in methods() if not re.search(rf"[`/]{name}`", PAGES["api-grpc.md"])} == set()


def test_every_error_class_is_in_the_page_of_clients() -> None:
    rows = {
        f"| `{kind.__name__}` | {kind.code.value} |"
        for kind in TfsError.__subclasses__()
        if kind.__module__ == "tfs.errors"
    }
    assert {row for row in rows if row not in PAGES["clients.md"]} == set()


def test_every_code_has_its_http_status() -> None:
    table = PAGES["api-rest.md"].partition("## Status codes")[2]
    assert {code.name for code in Code if code is not Code.OK and code.name not in table} == set()


def test_every_command_is_in_the_page_of_clients() -> None:
    section = PAGES["clients.md"].partition("## Command line")[2]
    assert {name for name in cli.COMMANDS if name not in section} == set()


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "measurements").exists() == (ROOT / "bench" / "REPORT.md").exists()
    for page, name in PICTURES:
        drawn = (ROOT / "bench" / "pictures" / name).exists()
        html = (tmp_path / page.removesuffix(".md") / "index.html").read_text()
        assert (f'src="../pictures/{name}"' in html) == (tmp_path / "pictures" / name).exists() == drawn
        assert ("make bench</code> draws" in html) or drawn


def test_pages_show_only_pictures_that_the_bench_draws() -> None:
    drawn = set(
        re.findall(r'^    \("(\w+)", .*, draw_', (ROOT / "bench" / "report.py").read_text(), re.MULTILINE)
    )
    assert PICTURES
    assert {name.removesuffix(".png") for _, name in PICTURES} <= drawn | {"profile"}
