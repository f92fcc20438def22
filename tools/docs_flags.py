"""Writes the tables of docs/flags.md from the flags themselves; the words around them stay.

Usage: python tools/docs_flags.py [--check].  `--check` writes nothing and fails on a difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "flags.md"
BEGIN, END = "<!-- tables: python tools/docs_flags.py -->", "<!-- end of tables -->"

sys.path.insert(0, str(ROOT))

from tfs.flags import FLAGS, GROUPS, REFERENCE_FLAGS, Flag  # noqa: E402 (needs the path above)


def row(flag: Flag, *, ours: bool) -> str:
    kind = flag.kind if not flag.choices else " \\| ".join(f"`{choice}`" for choice in flag.choices)
    default = f"`{flag.default_text}`" if flag.default_text else ""
    text = flag.help + (f" *No effect here: {flag.inert}.*" if flag.inert else "")
    return f"| `--{flag.name}` | {kind} | {default} | {text} | {'tfs' if ours else ''} |"


def tables() -> str:
    """One table for each group, in the order of the flags."""
    lines = []
    own = set(list(FLAGS)[REFERENCE_FLAGS:])
    for group in GROUPS:
        lines += [f"## {group}", "", "| Flag | Type | Default | Meaning | Only |", "|---|---|---|---|---|"]
        lines += [row(flag, ours=flag.name in own) for flag in FLAGS.values() if flag.group == group]
        lines.append("")
    return "\n".join(lines)


def page(old: str) -> str:
    """The page with fresh tables between the two marks."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    old = PAGE.read_text()
    if BEGIN not in old or END not in old:
        print(f"{PAGE.name}: the marks around the tables are gone", file=sys.stderr)
        return 1
    new = page(old)
    if arguments == ["--check"]:
        if new != old:
            print(
                f"{PAGE.name} does not list the flags as they are: run python tools/docs_flags.py",
                file=sys.stderr,
            )
            return 1
        return 0
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
