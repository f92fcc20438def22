"""How the sub-commands print: JSON, plain tables, arrays; colours and progress on a terminal only.

Owns: the form of what is printed. `rich` belongs to the runtime extra: without it there are no colours, and a progress bar that
would have been shown says so in one line. Must not know: commands.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

_COLOURS: Final = {"AVAILABLE": "green", "LOADING": "yellow", "UNLOADING": "yellow", "END": "red"}


def say(text: str) -> None:
    """Prints at once; a reader that has gone (`... | head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_json(value: Any) -> None:
    say(json.dumps(value, default=plain, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Arrays as lists, bytes as text or {"b64": ...}: what JSON can hold."""
    if isinstance(value, np.ndarray):
        return _bytes_in(value.tolist()) if value.dtype == object else _numbers(value)
    if isinstance(value, (bytes, bytearray)):
        return _text(bytes(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _numbers(value: np.ndarray[Any, Any]) -> Any:
    if value.dtype.kind == "c":  # [real, imaginary]
        value = np.stack((value.real, value.imag), -1)
    return (
        value.tolist()
        if value.dtype.kind in "biuf" and value.dtype.num < 256
        else value.astype(float).tolist()
    )


def _bytes_in(value: Any) -> Any:
    return [_bytes_in(one) for one in value] if isinstance(value, list) else _text(value)


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under their heads; numbers to the right. States are coloured on a terminal where rich is installed."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(head))]
    lines = []
    for row in [list(head), *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(_coloured(cell) for cell in padded).rstrip())
    return "\n".join(lines)


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return cell
    try:
        from rich.style import Style
    except ImportError:
        return cell
    return Style(color=colour).render(cell)


class Progress:
    """A bar that may not be there."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def show(self, done: float, text: str) -> None:
        """`done` of the total that the bar was made with."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)


@contextmanager
def progress(total: float, wanted: bool) -> Iterator[Progress]:
    """A progress bar on stderr where that is a terminal and `wanted`; otherwise one that shows nothing."""
    if not wanted or not sys.stderr.isatty():
        yield Progress()
        return
    try:
        from rich import progress as rich_progress
        from rich.console import Console
    except ImportError:
        print("no progress bar: rich is not installed (pip install 'tfs[runtime]')", file=sys.stderr)
        yield Progress()
        return
    with rich_progress.Progress(console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task("", total=total))
