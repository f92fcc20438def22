"""`tfs status`: the versions of a served model and their states."""

from __future__ import annotations

from tfs.client import State
from tfs.commands import output, shared


def main(arguments: list[str]) -> int:
    return shared.run("status", _status, arguments)


def _status(arguments: list[str]) -> int:
    """Exit status 1 when no version asked for is available, so that scripts can wait for one."""
    parser = shared.parser("status", "Show the versions of a served model and their states.")
    parser.add_argument("server", help="host:8500 or http://host:8501")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--version", type=int)
    given = parser.parse_args(arguments)
    model = shared.model_name(given)
    with shared.connect(given.server, given) as client:
        found = client.status(model, version=given.version)
    if given.json:
        output.say_json(
            [
                {
                    "version": one.version,
                    "state": one.state.name,
                    "code": one.code.name,
                    "message": one.message,
                }
                for one in found
            ]
        )
    else:
        rows = [
            [one.version, one.state.name, "" if not one.code else f"{one.code.name}: {one.message}"]
            for one in found
        ]
        output.say(output.table(["VERSION", "STATE", "ERROR"], rows))
    return 0 if any(one.state is State.AVAILABLE for one in found) else shared.FAILED
