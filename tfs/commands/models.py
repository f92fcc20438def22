"""`tfs models`: which models and versions lie under a directory or are named by a configuration file.

The API of TensorFlow Serving cannot list what a server has; with --server the state of every model found here is asked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from tfs.commands import output, saved_model, shared
from tfs.errors import NotFound, TfsError


class _Found(NamedTuple):
    name: str
    version: int
    path: Path


def main(arguments: list[str]) -> int:
    return shared.run("models", _models, arguments)


def _models(arguments: list[str]) -> int:
    parser = shared.parser("models", "List models and versions on disk, and with --server their states.")
    parser.add_argument(
        "where", type=Path, help="a directory of models, one model's, or a model configuration file"
    )
    parser.add_argument("--server", help="ask this server for the states: host:8500 or http://host:8501")
    given = parser.parse_args(arguments)

    found = _in_config(given.where) if given.where.is_file() else _in_directory(given.where)
    if not found:
        raise NotFound(f"no models in {given.where}: no version directory with a {saved_model.FILE} in it")
    states = _states(given, {one.name for one in found}) if given.server else {}
    rows = [_row(one, states) for one in found]
    if given.json:
        output.say_json(rows)
    else:
        output.say(output.table([key.upper() for key in rows[0]], [list(row.values()) for row in rows]))
    return 0


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
