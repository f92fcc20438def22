"""Splits a command line into flag values; pure, prints nothing.

Owns: the reference's syntax (`--flag=value`, bare `--bool`) and the `--flag value` form beside it, and which texts are values of
which type.  Must not know what is done about unknown arguments: `tfs serve` refuses them, the drop-in only mentions them.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

from tfs.flags import FLAGS, GROUPS, Flag

_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BITS: Final = {"int32": 32, "int64": 64}
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


def convert(flag: Flag, text: str) -> Any:
    """`text` as a value of `flag`; ValueError with a line that names flag, expectation and text."""
    if flag.kind == "bool":
        if (value := _BOOLEANS.get(text.lower())) is not None:
            return value
        expected = "true or false"
    elif flag.kind in _BITS:
        limit = 1 << (_BITS[flag.kind] - 1)
        # Twenty characters hold every 64-bit number; longer ones need not become an int first.
        if _INTEGER.fullmatch(text) and len(text) <= 20 and -limit <= int(text) < limit:
            return int(text)
        expected = f"a {_BITS[flag.kind]}-bit integer"
    elif flag.kind == "float":
        if _FLOAT.fullmatch(text):
            return float(text)
        expected = "a number"
    else:
        if not flag.choices or text in flag.choices:
            return text
        expected = " or ".join(flag.choices)
    raise ValueError(f"--{flag.name}: expected {expected}, got '{text}'")


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
