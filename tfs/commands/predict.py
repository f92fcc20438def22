"""`tfs predict`: one Predict from the command line."""

from __future__ import annotations

import argparse

import numpy as np

from tfs.client.types import Prediction
from tfs.commands import inputs, output, shared


def main(arguments: list[str]) -> int:
    return shared.run("predict", _predict, arguments)


def _predict(arguments: list[str]) -> int:
    parser = shared.parser("predict", "Ask a served model. Types come from its signature.")
    parser.add_argument("server", help="host:8500 or http://host:8501")
    parser.add_argument("model")
    parser.add_argument("input", nargs="+", help=inputs.HELP)
    add_choice(parser)
    parser.add_argument(
        "--output", action="append", default=[], metavar="NAME", help="this output only; may be repeated"
    )
    given = parser.parse_args(arguments)

    with shared.connect(given.server, given) as client:
        metadata = client.metadata(given.model, version=given.version, label=given.label)
        found = client.predict(
            given.model,
            inputs.read(given.input, inputs.signature_of(metadata, given.signature)),
            version=given.version,
            label=given.label,
            signature=given.signature,
            output_filter=given.output,
        )
    if given.json:
        output.say_json({"version": found.version or metadata.version, "outputs": dict(found)})
    else:
        output.say(_as_text(found))
    return 0


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a version and a signature."""
    parser.add_argument("--version", type=int)
    parser.add_argument("--label")
    parser.add_argument("--signature", default="", help="serving_default when not given")


def _as_text(found: Prediction) -> str:
    lines = []
    for name, array in sorted(found.items()):
        kind = "string" if array.dtype == object else str(array.dtype)
        shown = np.array2string(array, separator=", ", threshold=200) if array.dtype != object else None
        text = shown if shown is not None else "\n".join(map(repr, map(output.plain, array.ravel())))
        lines.append(f"{name}: {kind} {list(array.shape)}\n{text}")
    return "\n".join(lines)
