"""What can be measured, each behind the same face: a name, which faces it has ("grpc", "rest"), why it is missing, how to start it.

Owns: the registry.  A target that cannot run here is reported as missing with its reason, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.runner import Launch


@dataclass(frozen=True)
class Target:
    """A server that answers Predict for one model (or a baseline that answers anything)."""

    name: str
    title: str
    faces: Sequence[str]
    launch: Callable[[str, Path], Launch]  # model name, its base path -> how to start
    missing: Callable[[], str | None] = lambda: None


def all_targets() -> dict[str, Target]:
    """Every target by name, ours first."""
    from bench.targets import baselines, python_tensorflow, tensorflow_serving, tfs

    found = (*tfs.TARGETS, *baselines.TARGETS, *python_tensorflow.TARGETS, *tensorflow_serving.TARGETS)
    return {target.name: target for target in found}
