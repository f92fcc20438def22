"""`tfs inspect`: the signatures of a SavedModel on disk or of a served model.

Owns: how signatures are shown. TensorFlow is never imported, a graph never parsed: the answer comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfs.client.types import Signature, TensorInfo
from tfs.commands import output, saved_model, shared
from tfs.errors import NotFound


def main(arguments: list[str]) -> int:
    return shared.run("inspect", _inspect, arguments)


def _inspect(arguments: list[str]) -> int:
    parser = shared.parser("inspect", "Show the signatures of a SavedModel on disk, or of a served model.")
    parser.add_argument(
        "where", help="a directory, or a server (host:8500, http://host:8501[/v1/models/NAME])"
    )
    parser.add_argument("model", nargs="?", help="the model, when WHERE is a server")
    parser.add_argument("--version", type=int, help="the version to ask a server for")
    parser.add_argument("--label", help="the label to ask a server for")
    parser.add_argument("--signature", help="show this one only")
    given = parser.parse_args(arguments)

    path = Path(given.where)
    if path.exists():
        found = _on_disk(path)
    elif ":" in given.where:
        found = _served(given)
    else:
        raise NotFound(
            f"{given.where}: no such file or directory (a server is host:8500 or http://host:8501)"
        )
    if given.signature is not None:
        found["signatures"] = _only(found["signatures"], given.signature)
    if given.json:
        output.say_json(
            found | {"signatures": {name: _as_json(one) for name, one in found["signatures"].items()}}
        )
    else:
        output.say(_as_text(found))
    return 0


def _on_disk(path: Path) -> dict[str, Any]:
    """What is known of the first MetaGraph for serving, or of the first."""
    directory = saved_model.find(path)
    graphs = saved_model.read(directory)
    if not graphs:
        raise NotFound(f"{directory / saved_model.FILE} holds no graph")
    graph = next((one for one in graphs if "serve" in one.tags), graphs[0])
    return {
        "path": str(directory),
        "tags": list(graph.tags),
        "tensorflow_version": graph.tensorflow_version,
        "signatures": graph.signatures,
    }


def _served(given: Any) -> dict[str, Any]:
    model = given.model or shared.model_of(given.where)
    if model is None:
        raise shared.MisuseError(f"which model of {given.where}? tfs inspect {given.where} MODEL")
    with shared.connect(given.where, given) as client:
        found = client.metadata(model, version=given.version, label=given.label)
    signatures = {name: one for name, one in found.signatures.items() if name != saved_model.INIT_SIGNATURE}
    return {"model": found.name, "version": found.version, "signatures": signatures}


def _only(signatures: dict[str, Signature], name: str) -> dict[str, Signature]:
    if name not in signatures:
        raise NotFound(f"no signature '{name}'; there are: {', '.join(signatures) or 'none'}")
    return {name: signatures[name]}


def _as_json(one: Signature) -> dict[str, Any]:
    def tensors(infos: Any) -> dict[str, Any]:
        return {
            alias: {"name": info.name, "dtype": info.dtype_name, "shape": info.shape}
            for alias, info in infos.items()
        }

    return {
        "method_name": one.method_name,
        "inputs": tensors(one.inputs),
        "outputs": tensors(one.outputs),
        "defaults": list(one.defaults),
    }


def _as_text(found: dict[str, Any]) -> str:
    head = [
        f"{key.replace('_', ' ')}: {_joined(value)}" for key, value in found.items() if key != "signatures"
    ]
    lines = ["   ".join(head)]
    for name, one in found["signatures"].items():
        lines += ["", f"{name}   ({one.method_name or 'no method'})"]
        rows = [("  in ", alias, info) for alias, info in one.inputs.items()]
        rows += [("  out", alias, info) for alias, info in one.outputs.items()]
        lines += _aligned(
            [(kind, alias, *_tensor(info, alias in one.defaults)) for kind, alias, info in rows]
        )
    if not found["signatures"]:
        lines += ["", "no signatures"]
    return "\n".join(lines)


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tensor(info: TensorInfo, optional: bool) -> tuple[str, str, str]:
    shape = (
        "any shape"
        if info.shape is None
        else f"[{', '.join('?' if n is None else str(n) for n in info.shape)}]"
    )
    return info.dtype_name, shape, info.name + ("   (has a default)" if optional else "")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
