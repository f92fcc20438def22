"""Compiles `protos/` into `tfs/_descriptors.bin`, the one FileDescriptorSet that `tfs.messages` loads.

Usage: python tools/protos.py [--check].  Needs grpcio-tools.  `--check` writes nothing and fails on a difference.

The result is the same bytes on every machine: no source info, files in dependency order with names breaking ties, and the options
of google's own files (package names for other languages) dropped, because they vary between releases of the compiler.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
TARGET = ROOT / "tfs" / "_descriptors.bin"
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"


def compile_set() -> FileDescriptorSet:
    """Everything below `protos/` and what it imports, as the compiler gives it."""
    names = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set.bin")
        arguments = [
            f"-I{SOURCES}",
            f"-I{GOOGLE}",
            "--include_imports",
            f"--descriptor_set_out={out}",
            *names,
        ]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed")
        return FileDescriptorSet.FromString(out.read_bytes())


def in_order(files: FileDescriptorSet) -> list[FileDescriptorProto]:
    """The files so that each follows its imports."""
    by_name = {file.name: file for file in files.file}
    ordered: dict[str, FileDescriptorProto] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for dependency in sorted(by_name[name].dependency):
                visit(dependency)
            ordered[name] = by_name[name]

    for name in sorted(by_name):
        visit(name)
    return list(ordered.values())


def build() -> bytes:
    """The bytes that `tfs/_descriptors.bin` should hold."""
    result = FileDescriptorSet()
    for file in in_order(compile_set()):
        file.ClearField("source_code_info")
        if file.name.startswith("google/"):
            file.ClearField("options")
        result.file.append(file)
    return result.SerializeToString(deterministic=True)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    data = build()
    if arguments == ["--check"]:
        if not TARGET.exists() or TARGET.read_bytes() != data:
            print(
                f"{TARGET.relative_to(ROOT)} is not what protos/ gives: run python tools/protos.py",
                file=sys.stderr,
            )
            return 1
        return 0
    TARGET.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
