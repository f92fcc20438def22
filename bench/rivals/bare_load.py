"""The least that any server must do before it can answer: dlopen libtensorflow and load the SavedModel, by ctypes.

    python bench/rivals/bare_load.py SAVED_MODEL

Prints {"start_s": since the process began, "rss_mb": now, "peak_rss_mb": highest}.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from pathlib import Path


def load(saved_model: str) -> None:
    package = importlib.util.find_spec("tensorflow")
    if package is None or not package.submodule_search_locations:
        sys.exit("bare_load.py: TensorFlow is not installed")
    directory = Path(package.submodule_search_locations[0])
    ctypes.CDLL(str(directory / "libtensorflow_framework.so.2"), os.RTLD_NOW | os.RTLD_LOCAL)
    library = ctypes.CDLL(str(directory / "libtensorflow_cc.so.2"), os.RTLD_NOW | os.RTLD_LOCAL)
    for name in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph", "TF_LoadSessionFromSavedModel"):
        getattr(library, name).restype = ctypes.c_void_p
    status, options, graph = (
        ctypes.c_void_p(make())
        for make in (library.TF_NewStatus, library.TF_NewSessionOptions, library.TF_NewGraph)
    )
    tags = (ctypes.c_char_p * 1)(b"serve")
    session = library.TF_LoadSessionFromSavedModel(
        options, None, saved_model.encode(), tags, 1, graph, None, status
    )
    if not session:
        sys.exit(f"bare_load.py: cannot load {saved_model}")


def age_s() -> float:
    """Seconds since this process was started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    load(sys.argv[1])
    print(json.dumps({"start_s": age_s(), "rss_mb": status_mb("VmRSS"), "peak_rss_mb": status_mb("VmHWM")}))
