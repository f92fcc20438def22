"""`tfs reload`: replaces a server's set of models by a model configuration file, over gRPC."""

from __future__ import annotations

from pathlib import Path

from tfs.commands import output, shared
from tfs.errors import DeadlineExceeded


def main(arguments: list[str]) -> int:
    return shared.run("reload", _reload, arguments)


def _reload(arguments: list[str]) -> int:
    parser = shared.parser(
        "reload", "Replace a server's set of models; returns when the new ones are available."
    )
    parser.add_argument("server", help="host:8500")
    parser.add_argument("config", type=Path, help="a model configuration file (model_config_list)")
    given = parser.parse_args(arguments)
    config = shared.read_config(given.config)
    names = [one.name for one in config.model_config_list.config]
    with shared.connect(given.server, given) as client:
        try:
            client.reload(config.SerializeToString())
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"not all new models were available within {given.timeout:g} s; the server goes on loading, "
                "its log and tfs status tell what it waits for"
            ) from None
    if given.json:
        output.say_json({"models": names})
    else:
        output.say(f"{given.server} now has {len(names)} model(s): {', '.join(names) or 'none'}")
    return 0
