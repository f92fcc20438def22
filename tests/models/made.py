"""Where the SavedModels written by make_models.py are kept, for the tests and for `bench`.

Owns: running that script once in its own process, and the cache tests/.cache/models-KEY, where KEY is a hash of the script and
TensorFlow's version.  Never imports TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

SCRIPT = Path(__file__).with_name("make_models.py")
CACHE = Path(__file__).parents[1] / ".cache"


def tensorflow_version() -> str:
    """The installed TensorFlow's version.  Raises RuntimeError where there is none."""
    for name in ("tensorflow-cpu", "tensorflow"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise RuntimeError("making the example models needs TensorFlow: install tfs[cpu]")


def made_models() -> Path:
    """The directory that holds NAME/1 per model and expected/NAME.npz; made when it is not there.  Raises RuntimeError."""
    key = hashlib.sha256(SCRIPT.read_bytes() + tensorflow_version().encode()).hexdigest()[:16]
    directory = CACHE / f"models-{key}"
    if not directory.exists():
        fresh = directory.with_name(f"{directory.name}.{os.getpid()}")
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        made = subprocess.run(
            [sys.executable, str(SCRIPT), str(fresh)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if made.returncode != 0:
            raise RuntimeError(f"make_models.py failed:\n{made.stdout}\n{made.stderr}")
        try:
            fresh.rename(directory)
        except OSError:  # another run was first
            shutil.rmtree(fresh)
    return directory
