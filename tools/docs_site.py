"""MkDocs' hook: puts the bench's report and pictures into the site, where `make bench` has written them.

Owns: which files from outside docs/ become pages.  Must not know what is in them.  Called by mkdocs.yml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

BENCH = Path(__file__).resolve().parents[1] / "bench"
REPORT = BENCH / "REPORT.md"
SECTION = "Running it"
PAGE = "measurements.md"


def on_config(config: Any) -> None:
    """Names the page in the navigation.  Raises StopIteration when the section is gone."""
    if REPORT.exists():
        pages = next(
            section[SECTION] for section in config["nav"] if isinstance(section, dict) and SECTION in section
        )
        if PAGE not in pages:
            pages.insert(pages.index("performance.md") + 1, PAGE)


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the report as a page, its pictures beside it."""
    if REPORT.exists():
        text = REPORT.read_text().replace("[README.md](README.md)", "`bench/README.md`")
        files.append(File.generated(config, PAGE, content=text))
        for picture in sorted((BENCH / "pictures").glob("*.png")):
            files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files
