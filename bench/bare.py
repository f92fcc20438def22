"""What TensorFlow alone costs: the bare run of a workload's model and the bare load, each in a process of its own.

Owns: compiling and calling rivals/bare_run.c, calling rivals/bare_load.py.  Must not know: servers.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from bench import workloads
from bench.runner import CACHE, ROOT
from bench.workloads import Workload
from tfs import cores, messages
from tfs.config import intra_op_threads

RIVALS = ROOT / "bench" / "rivals"


def load(model: str) -> dict[str, float]:
    """dlopen and TF_LoadSessionFromSavedModel, nothing else: {start_s, rss_mb, peak_rss_mb}."""
    command = [sys.executable, str(RIVALS / "bare_load.py"), str(workloads.directory() / model / "1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def run(workload: Workload, runs: int = 2000, rounds: int = 5) -> list[dict[str, float]]:
    """TF_SessionRun in the calling thread on a float model of one input and one output: samples of {cpu_us, mean_us}.

    With as many threads inside an op as the server takes, or a small net would look four times as dear bare as served.
    """
    model = workloads.directory() / workload.model / "1"
    (alias, value), (output, _) = next(iter(workload.inputs.items())), next(iter(workload.outputs.items()))
    signature = serving_default(model)
    feed, fetch = signature.inputs[alias].name, signature.outputs[output].name
    command = [
        *(str(bare_run()), tensorflow_directory(), str(model), *feed.split(":"), *fetch.split(":")),
        *(str(threads_inside_ops()), str(runs), str(rounds), *map(str, value.shape)),
    ]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command, input=value.tobytes(), capture_output=True, check=True, timeout=300, env=environment
    )
    return [{"cpu_us": cpu, "mean_us": elapsed} for cpu, elapsed in json.loads(done.stdout)]


def threads_inside_ops() -> int:
    """What the server takes by default on this machine; 0: TensorFlow's choice."""
    return intra_op_threads(cores.usable(), len(os.sched_getaffinity(0)))


def serving_default(model: Path) -> messages.SignatureDef:
    saved = messages.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0].signature_def["serving_default"]


def tensorflow_directory() -> str:
    """Where the wheel is.  Raises RuntimeError without one."""
    package = importlib.util.find_spec("tensorflow")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the bench needs TensorFlow: install tfs[cpu]")
    return package.submodule_search_locations[0]


@functools.cache
def bare_run() -> Path:
    """The compiled program."""
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / "bare_run"
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-O2", "-o", str(program), str(RIVALS / "bare_run.c"), "-ldl"], check=True)
    return program
