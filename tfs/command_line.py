"""Splits a command line into flag values; pure, prints nothing.

Owns: the reference's syntax (`--flag=value`, bare `--bool`) and the `--flag value` form beside it, and which texts are values of
which type.  Must not know what is done about unknown arguments: `tfs serve` refuses them, the drop-in only mentions them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from tfs.flags import FLAGS, GROUPS, Flag

_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_HELP: Final = ("--help", "-h")


@dataclasses.dataclass(slots=True)
class Parsed:
    """`values`: flag name -> value, the last of repeated flags.  `unknown`: arguments that are no flags, or flags without the
    value that they need.  `errors`: one line for each bad value."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    unknown: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    help: bool = False


def parse(arguments: list[str]) -> Parsed:
    """What `arguments` (without the program's name) say.  Everything after `--` is unknown, as in the reference."""
    parsed = Parsed()
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if argument == "--":
            parsed.unknown += reversed(rest)
            break
        if argument in _HELP:
            parsed.help = True
            continue
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = FLAGS.get(name) if argument.startswith("--") else None
        if flag is None:
            parsed.unknown.append(argument)
        elif equals:
            _store(parsed, flag, text)
        elif rest and _is_value(flag, rest[-1]):
            _store(parsed, flag, rest.pop())
        elif flag.kind == "bool":
            parsed.values[name] = True
        else:
            parsed.unknown.append(argument)
    return parsed


def _is_value(flag: Flag, argument: str) -> bool:
    """Whether the argument after `--flag` belongs to it."""
    if flag.kind == "bool":
        return argument.lower() in _BOOLEANS
    return not argument.startswith("--")


def _store(parsed: Parsed, flag: Flag, text: str) -> None:
    try:
        parsed.values[flag.name] = convert(flag, text)
    except ValueError as error:
        parsed.errors.append(str(error))


def _boolean(text: str) -> bool:
    return _BOOLEANS[text.lower()]


def _integer(text: str, bits: int) -> int:
    text = text.lstrip(" \t\n\v\f\r")  # as the reference's reader does
    # Twenty characters hold every 64-bit number; longer texts never become an int.
    if not _INTEGER.fullmatch(text) or len(text) > 20 or not -(1 << bits - 1) <= int(text) < 1 << bits - 1:
        raise ValueError
    return int(text)


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError
    return float(text)


# Kind of flag -> (reader that raises LookupError or ValueError, what it expects).
_READERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "bool": (_boolean, "true or false"),
    "int32": (partial(_integer, bits=32), "a 32-bit integer"),
    "int64": (partial(_integer, bits=64), "a 64-bit integer"),
    "float": (_float, "a number"),
    "string": (str, "a text"),
}


def convert(flag: Flag, text: str) -> Any:
    """`text` as a value of `flag`; ValueError with a line that names flag, expectation and text."""
    read, expected = _READERS[flag.kind]
    try:
        value = read(text)
        if flag.choices and value not in flag.choices:
            expected = " or ".join(flag.choices)
            raise ValueError
        if flag.minimum is not None and value < flag.minimum:
            expected = f"{flag.minimum} or more"
            raise ValueError
    except (LookupError, ValueError):
        raise ValueError(f"--{flag.name}: expected {expected}, got '{text}'") from None
    return value


def nearest(name: str) -> str | None:
    """The flag whose name is most like `name`, or None when none is near."""
    import difflib

    found = difflib.get_close_matches(name.replace("-", "_").lower(), FLAGS, n=1)
    return found[0] if found else None


def usage(program: str) -> str:
    """All flags by group, with type, default and meaning."""
    lines = [f"usage: {program} [--flag=value ...]"]
    for group in GROUPS:
        lines += ["", f"{group}:"]
        for flag in FLAGS.values():
            if flag.group == group:
                lines += [
                    f"  --{flag.name}={flag.default_text}  ({'|'.join(flag.choices) or flag.kind})",
                    f"      {flag.help}",
                ]
                if flag.inert:
                    lines.append(f"      Accepted without effect: {flag.inert}.")
    return "\n".join(lines)
