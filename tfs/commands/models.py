"""`tfs models`: which models and versions lie under a directory, are named by a configuration file, or are known to a server.

The gRPC API cannot list what a server has, REST can; with --server the state of every model found on disk is asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from tfs.client.rest import RestClient
from tfs.commands import output, saved_model, shared
from tfs.errors import NotFound, TfsError


class _Found(NamedTuple):
    name: str
    version: int
    path: Path


def main(arguments: list[str]) -> int:
    return shared.run("models", _models, arguments)


def _models(arguments: list[str]) -> int:
    parser = shared.parser("models", "List models and versions, on disk or of a server, and their states.")
    parser.add_argument(
        "where", help="a directory of models, one model's, a model configuration file, or http://host:8501"
    )
    parser.add_argument("--server", help="ask this server for the states: host:8500 or http://host:8501")
    given = parser.parse_args(arguments)

    rows = _served(given) if shared.is_rest(given.where) else _on_disk(Path(given.where), given)
    if given.json:
        output.say_json(rows)
    elif rows:
        output.say(output.table([key.upper() for key in rows[0]], [list(row.values()) for row in rows]))
    return 0


def _served(given: argparse.Namespace) -> list[dict[str, Any]]:
    with shared.connect(given.where, given) as client:
        assert isinstance(client, RestClient)
        found = client.models()
    return [
        {"model": name, "version": one.version, "state": one.state.name, "error": one.message}
        for name, versions in found.items()
        for one in versions
    ]


def _on_disk(where: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    if not where.exists() and ":" in given.where:
        raise NotFound(
            f"{where}: no such file or directory; servers list their models by REST: http://host:8501"
        )
    found = _in_config(where) if where.is_file() else _in_directory(where)
    if not found:
        raise NotFound(f"no models in {where}: no version directory with a {saved_model.FILE} in it")
    states = _states(given, {one.name for one in found}) if given.server else {}
    return [_row(one, states) for one in found]


def _in_directory(where: Path) -> list[_Found]:
    bases = [where] if saved_model.versions(where) else sorted(one for one in where.iterdir() if one.is_dir())
    return [found for base in bases for found in _versions(base.absolute().name, base)]


def _in_config(path: Path) -> list[_Found]:
    config = shared.read_config(path)
    return [
        found
        for one in config.model_config_list.config
        for found in _versions(one.name, Path(one.base_path.removeprefix("file://")))
    ]


def _versions(name: str, base: Path) -> list[_Found]:
    return [_Found(name, version, path) for version, path in saved_model.versions(base).items()]


def _states(given: argparse.Namespace, names: set[str]) -> dict[tuple[str, int], str]:
    states = {}
    with shared.connect(given.server, given) as client:
        for name in sorted(names):
            try:
                states.update({(name, one.version): one.state.name for one in client.status(name)})
            except NotFound:
                continue
    return states


def _row(one: _Found, states: dict[tuple[str, int], str]) -> dict[str, Any]:
    try:
        graphs = saved_model.read(one.path)
        signatures = ", ".join(name for graph in graphs for name in graph.signatures)
    except TfsError as error:
        signatures = error.message
    size = sum(file.stat().st_size for file in one.path.rglob("*") if file.is_file())
    row: dict[str, Any] = {"model": one.name, "version": one.version}
    if states:
        row["state"] = states.get((one.name, one.version), "-")
    return row | {"mb": round(size / 1e6, 1), "signatures": signatures}
