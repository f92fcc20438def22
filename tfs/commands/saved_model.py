"""The signatures of a SavedModel on disk, without TensorFlow and without parsing its graph.

Owns: which directories are SavedModels, and a walk over the outer fields of saved_model.pb: the file is mapped, the graph (nearly
all of it) is stepped over by its length. Must not know: servers.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfs.client import _wire
from tfs.client.types import Signature, read_signature
from tfs.errors import Internal, InvalidArgument, NotFound

FILE: Final = "saved_model.pb"
INIT_SIGNATURE: Final = "__saved_model_init_op"


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """One MetaGraphDef: what `saved_model_cli show --all` is about."""

    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: dict[str, Signature]


def find(path: Path) -> Path:
    """The directory that holds saved_model.pb: `path`, the file's own, or the highest version under a base path. Raises NotFound."""
    if path.name == FILE and path.is_file():
        return path.parent
    if (path / FILE).is_file():
        return path
    found = versions(path)
    if found:
        return found[max(found)]
    if (path / "saved_model.pbtxt").is_file():
        raise InvalidArgument(
            f"{path} is a SavedModel in text form (saved_model.pbtxt), which is not read here"
        )
    raise NotFound(f"no SavedModel in {path}: neither {FILE} nor a version directory that holds one")


def versions(base: Path) -> dict[int, Path]:
    """Version -> directory, of the version directories under `base` that hold a SavedModel."""
    if not base.is_dir():
        return {}
    numbered = {int(one.name): one for one in base.iterdir() if one.name.isascii() and one.name.isdigit()}
    return {number: one for number, one in sorted(numbered.items()) if (one / FILE).is_file()}


def read(directory: Path) -> list[MetaGraph]:
    """The MetaGraphs of the SavedModel in `directory`. Raises InvalidArgument when the file is none."""
    path = directory / FILE
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise InvalidArgument(f"{path} is empty")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        # The map ends with the last view into it: an explicit close would fail while a traceback still holds one.
        return [_meta_graph(meta) for meta in _wire.messages(memoryview(mapped), 2)]
    except Internal as error:
        raise InvalidArgument(f"{path} is no SavedModel: {error}") from None


def _meta_graph(meta: memoryview) -> MetaGraph:
    tags: list[str] = []
    version = ""
    signatures = {}
    for field, kind, _, body in _wire.fields(meta):
        if field == 1 and kind == _wire.BYTES:
            info = memoryview(bytes(body))
            tags = [str(tag, "utf-8", "replace") for tag in _wire.messages(info, 4)]
            version = _wire.last_text(info, 5)
        elif field == 5 and kind == _wire.BYTES:
            entry = memoryview(bytes(body))
            name = _wire.last_text(entry, 1)
            for value in _wire.messages(entry, 2):
                signatures[name] = read_signature(value)
    shown = {name: one for name, one in sorted(signatures.items()) if name != INIT_SIGNATURE}
    return MetaGraph(tuple(tags), version, shown)
