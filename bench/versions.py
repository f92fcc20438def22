"""What the life-cycle benches share: version directories that come and go, and the states that a server reports.

Owns: publishing by rename, asking and awaiting states over REST. Must not know loads, figures.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

States = Mapping[int, str]

MODELS = Path(__file__).parents[1] / "tests" / "conformance" / "models"
# Adds the number of its version to what it is given; versions 1, 2, 3, 5 and 10 exist.
PLUS = MODELS / "plus"
# A small convolution net with variables: loads in 20 to 40 ms.
CNN = MODELS / "cnn" / "1"


def publish(source: Path, base: Path, version: int) -> None:
    """Makes a copy of `source` appear as a version in one step."""
    base.mkdir(parents=True, exist_ok=True)
    hidden = base / f".{version}"
    shutil.copytree(source, hidden)
    hidden.rename(base / str(version))


def retire(base: Path, version: int) -> None:
    """Makes a version disappear in one step."""
    gone = base / f".gone-{version}"
    (base / str(version)).rename(gone)
    shutil.rmtree(gone)


def states(rest_port: int, model: str) -> States:
    """Version -> state name, of every version the server has ever seen."""
    url = f"http://127.0.0.1:{rest_port}/v1/models/{model}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            reported = json.load(answer)["model_version_status"]
    except urllib.error.HTTPError as error:
        if error.code == 404:  # no version seen yet
            return {}
        raise
    return {int(one["version"]): one["state"] for one in reported}


def wait_states(
    rest_port: int,
    model: str,
    reached: Callable[[States], bool],
    what: str,
    *,
    pause_s: float = 0.1,
    timeout_s: float = 60,
) -> None:
    """Asks every `pause_s` until `reached`; raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_s
    while not reached(states(rest_port, model)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{model}: waited {timeout_s} s for {what}; has {states(rest_port, model)}")
        time.sleep(pause_s)
