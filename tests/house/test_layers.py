"""House rule: imports point downward only, and a layer names only the libraries that belong to it.

Reads the syntax trees of tfs/, so an import inside a function counts as well; one under `if TYPE_CHECKING:` does not, because it
never happens.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the composition root may use.
EVERYTHING = {
    "logs", "machine", "transport", "service", "lifecycle", "servable", "core", "config", "messages", "errors", "metrics",
}  # fmt: skip

# Layer by layer from the bottom; a module may import its own layer and those named beside it.  First match wins.
# `config` is a leaf below the control plane, too: version directories carry settings files of their own (batching_params.pbtxt).
LAYERS: list[tuple[str, str, set[str]]] = [
    ("tfs.errors", "errors", set()),
    ("tfs._fastpath", "core", {"errors"}),
    ("tfs.metrics", "metrics", {"errors", "core"}),
    ("tfs.messages", "messages", set()),
    ("tfs.cores", "machine", set()),
    ("tfs.flags", "flags", set()),
    ("tfs.command_line", "command line", {"flags"}),
    ("tfs.lifecycle.files", "files", {"errors"}),
    ("tfs.config", "config", {"flags", "files", "machine", "messages", "errors"}),
    ("tfs.servable", "servable", {"core", "config", "machine", "messages", "errors"}),
    ("tfs.lifecycle", "lifecycle", {"servable", "core", "files", "config", "messages", "errors"}),
    ("tfs.service", "service", {"lifecycle", "servable", "core", "messages", "errors", "metrics"}),
    ("tfs.transport", "transport", {"service", "lifecycle", "core", "messages", "errors", "metrics"}),
    ("tfs.op_linker", "servable", {"core", "errors"}),
    ("tfs.op_packages", "servable", {"core", "errors"}),
    ("tfs.batching", "servable", {"core", "config", "errors"}),
    ("tfs.logs", "logs", set()),
    ("tfs.assembly", "server", EVERYTHING),
    ("tfs.server", "server", EVERYTHING),
    ("tfs.client", "client", {"errors", "core"}),
]
# Sub-commands and the dispatcher stand on top and may use anything but each other's insides.
TOP = "commands"

# Library -> the layers that may name it; libraries that are not listed are free.  Tensors are the core's business, protobuf is
# reached through tfs.messages where possible, and Python TensorFlow is nobody's.
LIBRARIES: dict[str, set[str]] = {
    "tensorflow": set(),
    "keras": set(),
    "grpc": {"transport", "client", TOP},
    "grpc_health": {"transport", "client", TOP},
    "grpc_reflection": {"transport", "client", TOP},
    "uvicorn": {"transport", "server"},
    "uvloop": {"transport", "server", TOP},
    "httptools": {"transport"},
    "prometheus_client": {"metrics"},
    "google": {"messages", "config", "service", "lifecycle", TOP},
    "numpy": {"service", "lifecycle", "client", TOP},
    "rich": {TOP},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    for prefix, layer, _ in LAYERS:
        if module == prefix or module.startswith(prefix + "."):
            return layer
    return TOP


def allowed(layer: str) -> set[str]:
    if layer == TOP:
        return {TOP, *(name for _, name, _ in LAYERS)}
    return {layer, *next(below for _, name, below in LAYERS if name == layer)}


def guards_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that is executed."""
    for child in ast.iter_child_nodes(tree):
        if not guards_types(child):
            yield child
            yield from nodes(child)


def imports(source: str, module: str) -> set[str]:
    """Full names of the modules that `source`, the text of `module`, imports."""
    found: set[str] = set()
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not the house's way"
            origin = node.module or ""
            found |= {f"{origin}.{alias.name}" for alias in node.names} if origin == "tfs" else {origin}
    return found


SOURCES = {module_name(path): path for path in sorted((ROOT / "tfs").rglob("*.py"))}


def test_sources_are_found() -> None:
    assert {"tfs.errors", "tfs.messages", "tfs.config", "tfs.cli"} <= set(SOURCES)


def test_the_reader_of_imports() -> None:
    source = (
        "import grpc.aio\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tensorflow\n"
        "def f():\n    from tfs import messages, __version__\n    from tfs.lifecycle.states import State\n"
    )
    found = imports(source, "x")
    assert found == {"grpc.aio", "typing", "tfs.messages", "tfs.__version__", "tfs.lifecycle.states"}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downward(module: str) -> None:
    if module == "tfs":
        return
    layer = layer_of(module)
    ours = {name for name in imports(SOURCES[module].read_text(), module) if name.startswith("tfs.")}
    wrong = {name for name in ours if name != "tfs.__version__" and layer_of(name) not in allowed(layer)}
    assert wrong == set(), f"{module} is of the layer '{layer}', which may use {sorted(allowed(layer))}"


@pytest.mark.parametrize("module", SOURCES)
def test_libraries_belong_to_their_layers(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(SOURCES[module].read_text(), module)}
    wrong = {name for name in roots if name in LIBRARIES and layer_of(module) not in LIBRARIES[name]}
    assert wrong == set(), f"{module} is of the layer '{layer_of(module)}'"


PURE = ("tfs.errors", "tfs.lifecycle.states", "tfs.lifecycle.policy")


@pytest.mark.parametrize("module", [name for name in PURE if name in SOURCES])
def test_pure_modules(module: str) -> None:
    """No threads, clocks or I/O where decisions are made."""
    roots = {name.partition(".")[0] for name in imports(SOURCES[module].read_text(), module)}
    assert (
        roots & {"threading", "time", "asyncio", "os", "pathlib", "socket", "logging", "subprocess"} == set()
    )
