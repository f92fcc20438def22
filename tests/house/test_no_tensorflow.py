"""The server process must never import Python TensorFlow: every module of `tfs` is imported in a fresh process, then one looks."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import importlib, pkgutil, sys
import tfs
for module in pkgutil.walk_packages(tfs.__path__, "tfs."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
heavy = {"tensorflow", "keras", "tensorflow_serving", "mlxtend"} & set(sys.modules)
assert not heavy, f"imported by tfs: {heavy}"
"""


def test_no_module_imports_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
