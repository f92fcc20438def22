"""Builds the one compiled module, `tfs._fastpath`.

Environment switches
  TFS_BUILD=release|debug|asan|tsan   release is the default; debug keeps counts of live C handles and asserts
  TFS_NATIVE=auto|0|1                 the native gRPC transport over libnghttp2: where found | never | fail without it
  TFS_NO_EXTENSION=1                  no compiler at hand: the pure-Python client only
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
BUILD = os.environ.get("TFS_BUILD", "release")
NATIVE = os.environ.get("TFS_NATIVE", "auto")
# 1.57 brought nghttp2_option_set_stream_reset_rate_limit; Debian 12 carries it (and the CONTINUATION limit) in its 1.52 by patch,
# so the functions are looked for, not the number.
NEEDED_NGHTTP2 = ("nghttp2_option_set_stream_reset_rate_limit", "nghttp2_option_set_max_continuations")

NATIVE_PARTS = [
    "pieces",
    "transport",
    "out",
    "body",
    "http2",
    "grpc",
    "rest",
    "http1_head",
    "http1",
    "inflate",
    "streams",
    "io",
    "tick",
    "transport_echo",
    "listen",
    "native",
    "cold",
    "native_probe",
]

FLAGS = {
    "release": ["-O2", "-g0"],
    "debug": ["-O1", "-g", "-DTFS_DEBUG=1"],
    "asan": ["-O1", "-g", "-DTFS_DEBUG=1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "tsan": ["-O1", "-g", "-DTFS_DEBUG=1", "-fsanitize=thread"],
}
LINK = {"asan": ["-fsanitize=address,undefined"], "tsan": ["-fsanitize=thread"]}


def pkg_config(*arguments: str) -> list[str] | None:
    """What pkg-config answers for libnghttp2, or None."""
    tool = os.environ.get("PKG_CONFIG", "pkg-config")
    if shutil.which(tool) is None:
        return None
    done = subprocess.run([tool, *arguments, "libnghttp2"], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else None


def find_nghttp2() -> tuple[list[str], list[str]] | None:
    """(compile flags, link flags) of a libnghttp2 that has the limits the native transport relies on, or None."""
    if NATIVE == "0":
        return None
    cflags, libs = pkg_config("--cflags"), pkg_config("--libs")
    if cflags is not None and libs is not None and has_functions(cflags, [*libs, "-lz"]):
        return cflags, [*libs, "-lz"]
    if NATIVE == "1":
        raise SystemExit(
            "TFS_NATIVE=1, but no libnghttp2 with " + ", ".join(NEEDED_NGHTTP2) + " was found by pkg-config"
        )
    return None


def has_functions(cflags: list[str], libs: list[str]) -> bool:
    """Whether a program that calls the needed functions compiles and links."""
    calls = "".join(f"(void)&{name};" for name in (*NEEDED_NGHTTP2, "inflateInit2_"))
    source = f"#include <nghttp2/nghttp2.h>\n#include <zlib.h>\nint main(void) {{ {calls} return 0; }}\n"
    compiler = os.environ.get("CXX", "c++").split()
    command = [*compiler, "-x", "c++", "-", *cflags, *libs, "-o", os.devnull]
    try:
        return (
            subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def extensions() -> list[Extension]:
    """The extension, with the native transport's parts included where libnghttp2 was found."""
    if os.environ.get("TFS_NO_EXTENSION") == "1":
        return []
    from Cython.Build import cythonize

    found = find_nghttp2()
    parts = [f"{name}.pxi" for name in (NATIVE_PARTS if found else ["no_native"])]
    write_if_changed(
        HERE / "tfs" / "_fast" / "_native.pxi",
        "# Written by setup.py: which transport parts this build has.\n"
        + "".join(f'include "{name}"\n' for name in parts),
    )
    cflags, libs = found or ([], [])
    extension = Extension(
        "tfs._fastpath",
        ["tfs/_fastpath.pyx"],
        depends=[str(p.relative_to(HERE)) for p in sorted((HERE / "tfs").rglob("*.p[xi][ixd]"))],
        language="c++",
        extra_compile_args=[
            "-std=c++17",
            "-fno-exceptions",
            "-ffp-contract=off",  # numbers round alike everywhere: arm64 would fuse multiplications with additions
            "-fvisibility=hidden",
            "-Wno-unused-function",
            *FLAGS[BUILD],
            *cflags,
        ],
        extra_link_args=["-pthread", *LINK.get(BUILD, []), *libs],
    )
    return cythonize([extension], build_dir=str(HERE / "build" / BUILD), quiet=True)


setup(ext_modules=extensions())
