"""Where the time of one request goes, by stage, from the core's own marks.

    python -m bench.profile [ROUNDS]

Puts an engine and the native transport into this process, loads it with h2load, and reads how long calls spent in each stage.  A mark
is one clock read per stage and call, only while profiling is on.  `transport` is what is left of the process's CPU time per answer:
sockets, HTTP/2, framing.  `queue` and `wake` are waiting and cost no CPU: they are shown, but are not in `cpu`.
Owns: the figures `WORKLOAD.STAGE`, microseconds per answer, medians over rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time

from bench import bare, loads, workloads
from bench.loads import Call, Pressure
from bench.workloads import Workload
from tfs import _fastpath

ROUNDS = 5
SECONDS = 1.0
WAITING = ("queue", "wake")
STAGES = ("transport", "decode", "resolve", "queue", "assemble", "run", "scatter", "wake", "encode")
BATCH = {"max_batch_size": 32, "batch_timeout_micros": 1000, "max_enqueued_batches": 1000}


class Rig:
    """Engine, native transport and one model in this process."""

    def __init__(self, model: str, batched: bool) -> None:
        self.engine = _fastpath.Engine()
        self.loaded = _fastpath.LoadedServable.load(
            model, 1, str(workloads.directory() / model / "1"), tags=["serve"]
        )
        self.threads = _fastpath.BatchThreads(2) if batched else None
        if self.threads is not None:
            self.loaded.enable_batching(self.threads, **BATCH)
        self.engine.publish({model: {1: self.loaded}}, None)
        self.server = _fastpath.NativeServer(
            self.engine,
            addresses=["127.0.0.1:0"],
            io_threads=2,
            cold=[],
            max_message_bytes=1 << 30,
            byte_budget=1 << 30,
            max_connections=1000,
            arguments={},
        )

    def close(self) -> None:
        self.server.close()
        self.engine.publish({}, None)
        self.loaded.wait_unused(10)
        self.loaded.close()
        if self.threads is not None:
            self.threads.close()
        self.engine.close()


def round_of(rig: Rig, call: Call, pressure: Pressure) -> dict[str, float]:
    """Microseconds per answer by stage, of one round of h2load."""
    port = rig.server.ports[0]
    size = loads.grpc_once(port, call) + 5
    with tempfile.NamedTemporaryFile(prefix="bench-body-") as body:
        body.write(b"\0" + len(call.body).to_bytes(4, "big") + call.body)
        body.flush()
        trial = loads.h2load(port, call.path, body.name, pressure, 2000)
        count = int(trial["done"] / max(trial["elapsed"], 1e-6) * pressure.seconds)
        rig.engine.profile(True)
        before = time.process_time()
        result = loads.h2load(port, call.path, body.name, pressure, max(count, 1000))
        cpu = time.process_time() - before
        stages = rig.engine.stages()
        rig.engine.profile(False)
    answers = stages.pop("calls")
    if result["data"] != answers * size:
        raise RuntimeError(f"{answers} calls, but {result['data']:.0f} bytes of answers of {size}")
    found = {name: spent / answers / 1000 for name, spent in stages.items()}
    found["cpu"] = cpu / answers * 1e6
    found["transport"] = max(
        0.0, found["cpu"] - sum(us for name, us in found.items() if name not in ("cpu", *WAITING))
    )
    return found


def measure(name: str, workload: Workload, batched: bool, rounds: int) -> dict[str, float]:
    rig = Rig(workload.model, batched)
    try:
        samples = [round_of(rig, workload.grpc(), Pressure(4, 16, SECONDS)) for _ in range(rounds)]
    finally:
        rig.close()
    return {
        f"{name}.{stage}": round(statistics.median(one[stage] for one in samples), 3) for stage in samples[0]
    }


def run(rounds: int = ROUNDS) -> dict[str, float]:
    """Figure name -> microseconds per answer."""
    _fastpath.load_runtime(bare.tensorflow_directory())
    cases = {
        "half_plus_two": (workloads.recorded("half_plus_two"), False),
        "strings": (workloads.recorded("strings"), False),
        "inputs64": (workloads.recorded("inputs64"), False),
        "echo16384": (workloads.echo(1 << 14), False),
        "mnist": (workloads.recorded("mnist", 1), False),
        "mnist batched": (workloads.recorded("mnist", 1), True),
    }
    figures: dict[str, float] = {}
    for name, (workload, batched) in cases.items():
        figures |= measure(name, workload, batched, rounds)
    return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    json.dump(run(rounds), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
