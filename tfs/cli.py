"""The commands: `tfs NAME ...` (also `python -m tfs`) and the drop-in `tensorflow_model_server`.

Owns: which command is run, exit statuses, and what is printed about a command line that is wrong.  Sub-commands are imported when
they are run, so that none pays for the others; `main(arguments) -> exit status` is all that is known of one.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from tfs.command_line import nearest, parse, usage
from tfs.flags import FLAGS

FAILED: Final = 255  # What the reference's -1 becomes.
MISUSED: Final = 2
_WHAT_BRINGS_IT: Final = "pip install 'tfs[cpu]' (or 'tfs[server]', 'tfs[gpu]') brings packages, a C++ compiler at installation the compiled module"

# Name -> (module with `main(arguments: list[str]) -> int`, one line of help).
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "models": ("tfs.commands.models", "List models and versions on disk."),
    "inspect": ("tfs.commands.inspect", "Show the signatures of a SavedModel or a served model."),
    "predict": ("tfs.commands.predict", "Ask a served model."),
    "status": ("tfs.commands.status", "Show the versions of a served model and their states."),
    "reload": ("tfs.commands.reload", "Replace a server's set of models."),
    "warmup": ("tfs.commands.warmup", "Write a version's warm-up file."),
    "load": ("tfs.commands.load", "Send calls at a steady rate and show the latencies."),
}


def main(arguments: list[str] | None = None) -> int:
    """`tfs ...`: runs a sub-command and gives its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else ""
    if name == "serve":
        return serve(arguments[1:])
    if name in COMMANDS:
        return _command(COMMANDS[name][0])(arguments[1:])
    if name in ("--help", "-h", "help"):
        _say(_commands())
        return 0
    if name == "--version":
        _print_versions()
        return 0
    print(f"tfs: unknown command '{name}'" if name else "tfs: which command?", file=sys.stderr)
    print(_commands(), file=sys.stderr)
    return MISUSED


def serve(arguments: list[str]) -> int:
    """`tfs serve ...`: the server, strict about its command line."""
    parsed = parse(arguments)
    if parsed.help:
        _say(usage("tfs serve"))
        return 0
    problems = [_problem(argument) for argument in parsed.unknown] + parsed.errors
    if problems:
        for problem in problems:
            print(f"tfs serve: {problem}", file=sys.stderr)
        return MISUSED
    return _run(parsed.values)


def tensorflow_model_server(arguments: list[str] | None = None) -> int:
    """The drop-in: unknown arguments are mentioned and the server starts all the same; a bad value ends it."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    if parsed.help or parsed.errors:
        for error in parsed.errors:
            print(error, file=sys.stderr)
        _say(usage("tensorflow_model_server"))
        return FAILED
    if parsed.unknown and not parsed.values.get("version"):
        for argument in parsed.unknown:
            _say(f"unknown argument: {argument}")
        _say(usage("tensorflow_model_server"))
    return _run(parsed.values)


def _run(values: dict[str, Any]) -> int:
    """Serves until told to stop; the exit status."""
    if values.get("version"):
        _print_versions()
        return 0
    from tfs.config import Settings
    from tfs.errors import TfsError

    settings = Settings(**values)
    try:
        run: Callable[[Any], int] = importlib.import_module("tfs.server").main
        return run(settings)
    except TfsError as error:
        problem = error.status_text
    except ImportError as error:  # the light client alone is installed
        problem = f"FAILED_PRECONDITION: not all of the server is installed: {error}. {_WHAT_BRINGS_IT}"
    _say(f"Failed to start server. Error: {problem}")
    return FAILED


def _say(text: str) -> None:
    """Prints a line at once; a reader that has gone (`... | head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _problem(argument: str) -> str:
    """Why `tfs serve` refuses an argument, with the flag that was probably meant."""
    if not argument.startswith("--"):
        return f"unexpected argument '{argument}'; flags are written --name=value"
    name = argument[2:].partition("=")[0]
    if name in FLAGS:
        return f"--{name} needs a value: --{name}={FLAGS[name].kind}"
    near = nearest(name)
    return f"unknown flag --{name}" + (f"; did you mean --{near}?" if near else "; --help lists all flags")


def _commands() -> str:
    known = {"serve": "Serve models over gRPC and REST."} | {
        name: text for name, (_, text) in COMMANDS.items()
    }
    width = max(len(name) for name in known)
    lines = [f"  {name:<{width}}  {text}" for name, text in known.items()]
    return "\n".join(["usage: tfs COMMAND ...   (tfs COMMAND --help says more)", "", *lines])


def _command(module: str) -> Callable[[list[str]], int]:
    # An error is one line; gRPC, which reads this when it is imported, would write more of its own beside it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    found: Callable[[list[str]], int] = importlib.import_module(module).main
    return found


def _print_versions() -> None:
    from tfs import __version__

    _say(f"TensorFlow ModelServer: {__version__}\nTensorFlow Library: {_library_version()}")


def _library_version() -> str:
    """The installed TensorFlow's version, from its package metadata: importing it would take seconds."""
    from importlib import metadata

    for name in ("tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu", "tensorflow-rocm"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
