"""MkDocs' hook: puts the bench's report and pictures into the site, where `make bench` has written them.

Owns: which files from outside docs/ become pages, and the pictures that pages show from there: they name them as they lie in the
repository (../bench/pictures/NAME.png, which is right for whoever reads the page there), and there is one copy.  Must not know
what is in them.  Called by mkdocs.yml.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

BENCH = Path(__file__).resolve().parents[1] / "bench"
REPORT = BENCH / "REPORT.md"
SECTION = "Running it"
PAGE = "measurements.md"
PICTURES = BENCH / "pictures"
PICTURE = re.compile(r"!\[[^]]*\]\(\.\./bench/pictures/([a-z_]+\.png)\)")


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
    for picture in sorted(PICTURES.glob("*.png")):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pictures of the bench from where the site has them; before the first `make bench` the page says what draws them."""

    def placed(found: re.Match[str]) -> str:
        if (PICTURES / found[1]).exists():
            return found[0].replace("../bench/pictures/", "pictures/")
        return f"*(`make bench` draws `bench/pictures/{found[1]}`.)*"

    return PICTURE.sub(placed, markdown)
