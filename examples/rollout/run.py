"""Rolling a version out and back by adding and removing directories, and the policy for machines without room for two versions.

    python -m examples.rollout.run [--work=DIRECTORY]

The server looks at the base path once a second. A client asks all the while: no request fails. The log lines to look for are printed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import tensorflow as tf

from examples.serving import Server, serving
from tfs.client import Client, TfsError


def export(path: Path, factor: float) -> None:
    """y = factor * x."""
    module = tf.Module()
    module.factor = tf.Variable(factor)
    module.call = tf.function(
        lambda x: {"y": module.factor * x}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(path), {"serving_default": module.call})


class Asking:
    """A thread that asks without a pause; counts answers by value, and failures."""

    def __init__(self, target: str) -> None:
        self.answers: dict[float, int] = {}
        self.failures: list[str] = []
        self._over = threading.Event()
        self._target = target
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        with Client(self._target, retries=0) as client:
            while not self._over.is_set():
                try:
                    y = float(client.predict("scale", {"x": np.ones(1, np.float32)})["y"][0])
                except TfsError as error:
                    self.failures.append(error.status_text)
                else:
                    self.answers[y] = self.answers.get(y, 0) + 1


def swap(server: Server, ready: Path, base: Path) -> None:
    """Version 2 appears, complete, under its name; then it goes away again."""
    print("add models/scale/2 (moved there when it is complete)")
    shutil.copytree(ready, base / ".2")
    (base / ".2").rename(base / "2")
    print(server.wait_log("Successfully loaded servable version {name: scale version: 2}"))
    print(server.wait_log("Successfully unloaded servable version {name: scale version: 1}"))
    print("remove models/scale/2: back to version 1")
    shutil.rmtree(base / "2")
    print(server.wait_log("Successfully unloaded servable version {name: scale version: 2}"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Roll a version out and back.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-rollout")
    work = parser.parse_args().work.absolute()
    shutil.rmtree(work, ignore_errors=True)
    base, ready = work / "models" / "scale", work / "ready"
    export(base / "1", 10.0)
    export(ready, 20.0)

    print("\n== The new version is loaded before the old one goes")
    flags = ["--model_name=scale", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1"]
    with serving(*flags) as server, Asking(server.grpc) as asking:
        swap(server, ready, base)
    print(f"answers: {sorted(asking.answers)}   failed: {len(asking.failures)}")

    print(
        "\n== With --aspired_version_policy=resource_preserving the old one goes first: memory for one, and a gap"
    )
    with (
        serving(*flags, "--aspired_version_policy=resource_preserving") as server,
        Asking(server.grpc) as asking,
    ):
        swap(server, ready, base)
        lines = server.log.read_text(errors="replace").splitlines()
    print(f"answers: {sorted(asking.answers)}   failed, all of them NOT_FOUND: {_only_gaps(asking.failures)}")
    order = [line for line in lines if "Successfully" in line]
    print("\n".join(order[1:3]))


def _only_gaps(failures: list[str]) -> bool:
    return all(text.startswith("NOT_FOUND: Servable not found") for text in failures)


if __name__ == "__main__":
    main()
