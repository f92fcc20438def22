"""`tfs load`: a small open-loop load test of a served model.

Owns: when calls are due, what is counted, the table. Arrivals are Poisson at the rate asked for, whatever the answers do, and a
latency runs from the moment its call was due: waiting is in it. The load goes where the command line says and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tfs.commands import inputs, output, predict, shared
from tfs.errors import InvalidArgument, TfsError

MAX_SECONDS: Final = 600.0
MAX_RATE: Final = 20_000.0
MAX_OPEN: Final = 4096  # calls under way; beyond, a due call is counted as "not sent"
REST_THREADS: Final = 64
_PERCENTILES: Final = (50, 90, 99, 99.9)

Ask = Callable[[], Awaitable[object]]


def main(arguments: list[str]) -> int:
    return shared.run("load", _load, arguments)


def _load(arguments: list[str]) -> int:
    parser = shared.parser("load", "Send Predict calls at a steady rate and show the latencies.")
    parser.add_argument(
        "server", help="host:8500, or http://host:8501 (over which this tool itself is slower)"
    )
    parser.add_argument("model")
    parser.add_argument("input", nargs="*", default=[], help="zeros when not given; else " + inputs.HELP)
    predict.add_choice(parser)
    parser.add_argument("--rate", type=float, default=50, help="calls per second (50)")
    parser.add_argument("--seconds", type=float, default=5, help="how long (5)")
    parser.add_argument("--rows", type=int, default=1, help="rows of the zeros (1)")
    given = parser.parse_args(arguments)
    for name, value, most in (("rate", given.rate, MAX_RATE), ("seconds", given.seconds, MAX_SECONDS)):
        if not 0 < value <= most:
            raise InvalidArgument(f"--{name} is {value:g}: expected more than 0 and at most {most:g}")
    result = asyncio.run(_measure(given, _inputs(given)))
    if given.json:
        output.say_json(result.as_json())
    else:
        output.say(result.as_text())
    return 0 if result.codes["OK"] else shared.FAILED


def _inputs(given: argparse.Namespace) -> dict[str, object]:
    with shared.connect(given.server, given) as client:
        metadata = client.metadata(given.model, version=given.version, label=given.label)
    signature = inputs.signature_of(metadata, given.signature)
    return inputs.read(given.input, signature) if given.input else inputs.zeros(signature, given.rows)


@dataclass
class _Result:
    """What came of it."""

    rate: float
    codes: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""

    def figures(self) -> dict[str, float]:
        taken = np.array(self.latencies_ms or [float("nan")])
        spread = {f"p{percentile:g}": float(np.percentile(taken, percentile)) for percentile in _PERCENTILES}
        return {"mean": float(taken.mean()), **spread, "max": float(taken.max())}

    def as_json(self) -> dict[str, Any]:
        return {
            "asked_per_s": self.rate,
            "answered_per_s": round(self.codes["OK"] / self.seconds, 3),
            "seconds": round(self.seconds, 3),
            "codes": dict(self.codes),
            "latency_ms": {name: round(value, 3) for name, value in self.figures().items()}
            if self.latencies_ms
            else None,
            "problem": self.problem or None,
        }

    def as_text(self) -> str:
        rows = [[code, count, round(count / self.seconds, 1)] for code, count in self.codes.most_common()]
        parts = [output.table(["STATUS", "CALLS", "PER S"], rows)]
        if self.latencies_ms:
            shown = [[name, f"{value:.3f}"] for name, value in self.figures().items()]
            parts.append(output.table(["LATENCY", "MS"], shown))
        if self.problem:
            parts.append(f"first error: {self.problem}")
        return "\n\n".join(parts)


async def _measure(given: argparse.Namespace, sent: dict[str, object]) -> _Result:
    named = {"version": given.version, "label": given.label, "signature": given.signature}
    if shared.is_rest(given.server):
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(REST_THREADS) as pool, shared.connect(given.server, given) as client:
            return await _drive(
                given,
                lambda: loop.run_in_executor(pool, lambda: client.predict(given.model, sent, **named)),
            )
    async with shared.connect_async(given.server, given) as other:
        return await _drive(given, lambda: other.predict(given.model, sent, **named))


async def _drive(given: argparse.Namespace, ask: Ask) -> _Result:
    """Starts calls when they are due and waits for the last."""
    result = _Result(given.rate)
    chance = random.Random(0)
    begin = due = time.perf_counter()
    under_way: set[asyncio.Task[None]] = set()
    with output.progress(given.seconds, not given.json) as bar:
        while (due := due + chance.expovariate(given.rate)) < begin + given.seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            bar.show(due - begin, f"{sum(result.codes.values())} answers, {len(under_way)} open")
            if len(under_way) >= MAX_OPEN:
                result.codes["not sent"] += 1
                continue
            task = asyncio.create_task(_one(ask, due, result))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    result.seconds = max(time.perf_counter() - begin, given.seconds)
    return result


async def _one(ask: Ask, due: float, result: _Result) -> None:
    try:
        await ask()
    except TfsError as error:
        result.codes[error.code.name] += 1
        result.problem = result.problem or error.status_text
    else:
        result.codes["OK"] += 1
        result.latencies_ms.append((time.perf_counter() - due) * 1e3)
