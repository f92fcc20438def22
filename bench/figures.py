"""Every figure that the project asked of itself: what was asked, how it is read out of the result files, the command that measures it.

Owns: the table FIGURES.  Must not know: how anything is measured.  A figure whose rows are not there is "not measured", never guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]
Verdict = tuple[str, bool]


@dataclass(frozen=True)
class Figure:
    """`read` takes the rows of the suite's result file; it may raise LookupError when a row is missing."""

    part: str
    asked: str
    suite: str
    read: Callable[[Rows], Verdict]

    @property
    def command(self) -> str:
        return f"python -m bench {self.suite}"


def row(rows: Rows, **wanted: object) -> Row:
    """The first row with these fields.  Raises LookupError."""
    for one in rows:
        if all(one.get(name) == value for name, value in wanted.items()):
            return one
    raise LookupError(f"no row with {wanted}")


def median(rows: Rows, measure: str, **wanted: object) -> float:
    return float(row(rows, **wanted)["median"][measure])


def at_most(value: float, bound: float, text: str) -> Verdict:
    return f"{text} (bound {bound:.4g})", value <= bound


def at_least(value: float, bound: float, text: str) -> Verdict:
    return f"{text} (bound {bound:.4g})", value >= bound


def number(name: str, bound: float, unit: str = "", least: bool = False) -> Callable[[Rows], Verdict]:
    """One of the figures that an in-process bench prints."""

    def read(rows: Rows) -> Verdict:
        value = next(one["figures"][name] for one in rows if name in one.get("figures", {}))
        text = f"{value:.4g}{unit}"
        return at_least(value, bound, text) if least else at_most(value, bound, text)

    return read


# --- what is read out of rows -----------------------------------------------------------------------------------------------------------

BUSY = {"connections": 4, "streams": 16}
ALONE = {"connections": 1, "streams": 1}


def start_time(rows: Rows) -> Verdict:
    bare, ours = (median(rows, "start_s", target=name) for name in ("bare", "tfs-native"))
    return at_most(ours, bare + 0.5, f"{ours:.2f} s, bare {bare:.2f} s")


def start_memory(rows: Rows) -> Verdict:
    bare, ours = (median(rows, "rss_mb", target=name) for name in ("bare", "tfs-native"))
    return at_most(ours, bare + 90, f"{ours:.0f} MB, bare {bare:.0f} MB")


def engine_mnist(rows: Rows) -> Verdict:
    figures = next(one["figures"] for one in rows)
    ours, bare = figures["engine_mnist_us"], figures["engine_mnist_bare_us"]
    return at_most(ours, 1.15 * bare + 3, f"{ours:.1f} µs, bare {bare:.1f} µs")


def grpcio_over_echo(rows: Rows) -> Verdict:
    half = {"model": "half_plus_two", **BUSY}
    echo = median(rows, "cpu_us", target="grpcio-echo", **half)
    ours = median(rows, "cpu_us", target="tfs-grpcio", **half)
    return at_most(ours, echo + 12, f"{ours:.1f} µs, echo {echo:.1f} µs")


def native_cpu(rows: Rows) -> Verdict:
    half = {"model": "half_plus_two", **BUSY}
    echo, ours = (median(rows, "cpu_us", target=name, **half) for name in ("grpcio-echo", "tfs-native"))
    return at_most(ours, 9, f"{ours:.2f} µs, the echo {echo:.0f} µs")


def native_throughput(rows: Rows) -> Verdict:
    half = {"model": "half_plus_two", **BUSY}
    echo, ours = (median(rows, "per_s", target=name, **half) for name in ("grpcio-echo", "tfs-native"))
    return at_least(ours / echo, 9, f"{ours / echo:.1f} × ({ours:.0f}/s, echo {echo:.0f}/s)")


def native_latency(rows: Rows) -> Verdict:
    half = {"model": "half_plus_two", **ALONE}
    echo, ours = (median(rows, "mean_us", target=name, **half) for name in ("grpcio-echo", "tfs-native"))
    return at_most(ours / echo, 0.35, f"{ours / echo:.2f} × ({ours:.0f} µs, echo {echo:.0f} µs)")


def native_mnist(rows: Rows) -> Verdict:
    bare = median(rows, "cpu_us", target="bare", model="mnist")
    ours = median(rows, "cpu_us", target="tfs-native", model="mnist", **BUSY)
    return at_most(ours, 1.3 * bare + 7, f"{ours:.1f} µs, bare run {bare:.1f} µs")


def rest_cpu(rows: Rows) -> Verdict:
    floor, ours = (
        median(rows, "cpu_us", target=name, model="half_plus_two")
        for name in ("uvicorn-constant", "tfs-native")
    )
    return at_most(ours, floor + 16, f"{ours:.1f} µs, constant {floor:.1f} µs")


def rest_throughput(rows: Rows) -> Verdict:
    floor, ours = (
        median(rows, "per_s", target=name, model="half_plus_two")
        for name in ("uvicorn-constant", "tfs-native")
    )
    return at_least(ours / floor, 0.6, f"{ours / floor:.2f} × ({ours:.0f}/s, constant {floor:.0f}/s)")


def rest_image(rows: Rows) -> Verdict:
    floor, ours = (
        median(rows, "cpu_us", target=name, model="mnist") for name in ("uvicorn-constant", "tfs-native")
    )
    return at_most(ours, 70, f"{ours:.1f} µs, a constant uvicorn answer {floor:.1f} µs")


def large_time(rows: Rows) -> Verdict:
    names = ("grpcio-echo", "tfs-grpcio", "copies", "bare")
    echo, ours, copies, run = (median(rows, "mean_us", target=name) / 1000 for name in names)
    return at_most(
        ours, echo + 2.5 * copies + run, f"{ours:.1f} ms, echo {echo:.1f} ms, two copies {copies:.1f} ms"
    )


def large_memory(rows: Rows) -> Verdict:
    """What one more call adds at its peak when malloc keeps nothing of the calls before it; and the highest mark when it keeps what it does."""
    figures = next(one["figures"] for one in rows if "peak_growth_tensors" in one.get("figures", {}))
    growth, ours, echo = (
        figures[f"{name}_tensors"] for name in ("peak_growth", "above_start", "echo_above_start")
    )
    return at_most(
        growth,
        4.2,
        f"{growth:.2f} × where malloc keeps nothing; as served, all calls {ours:.1f} × above the start, the echo's {echo:.1f} ×",
    )


def neighbour(rows: Rows) -> Verdict:
    alone, beside = (median(rows, "p99_us", workload=name) for name in ("alone", "beside"))
    return at_most(beside, alone + 1000, f"p99 {beside:.0f} µs, alone {alone:.0f} µs")


def all_cores(rows: Rows) -> Verdict:
    cores = os.cpu_count() or 1
    busy = median(rows, "cores", workload="one connection")
    return at_least(busy, 0.85 * cores, f"{busy:.2f} of {cores} cores busy in the server")


def scheduler(case: str, producers: int) -> Callable[[Rows], Verdict]:
    """The batcher's own cost; what the producers of the calls take to sleep and to be woken stands beside it."""
    key = f"batcher_{case}_{producers}_producers"

    def read(rows: Rows) -> Verdict:
        figures = next(one["figures"] for one in rows if f"{key}_us" in one.get("figures", {}))
        own, whole = figures[f"{key}_us"], figures[f"{key}_with_waiting_us"]
        return at_most(own, 1.5, f"{own:.3g} µs; {whole:.3g} with it")

    return read


def batching_gain(rows: Rows) -> Verdict:
    plain, batched = (
        median(rows, "per_s", target=name, workload="mnist_large", streams=16)
        for name in ("unbatched", "batched")
    )
    return at_least(batched / plain, 3, f"{batched / plain:.2f} × ({batched:.0f}/s, unbatched {plain:.0f}/s)")


def batching_alone(rows: Rows) -> Verdict:
    plain, batched = (
        median(rows, "p50_us", target=name, workload="mnist_large", streams=1)
        for name in ("unbatched", "batched")
    )
    return at_most(
        batched, 1.1 * plain + 1000, f"p50 {batched:.0f} µs, unbatched {plain:.0f} µs, timeout 1000 µs"
    )


def goodput(rows: Rows) -> Verdict:
    got = next(one["figures"] for one in rows if "figures" in one)
    share, less, more = (
        got[name] for name in ("goodput_of_capacity", "generator_cores_at_capacity", "generator_cores")
    )
    text = f"{share:.2f} of capacity; the generator took {less:.2f} cores at capacity, {more:.2f} at twice its rate"
    return at_least(share, 0.9, text)


def good_calls(rows: Rows) -> Verdict:
    samples = [sample for one in rows for sample in one.get("samples", [])]
    if not samples:
        raise LookupError("no row with samples")
    failed = sum(sample["wrong"] + sample["lost"] for sample in samples)
    sent = sum(sample["sent"] for sample in samples)
    return at_most(failed, 0, f"{failed:.0f} of {sent:.0f} good calls failed")


def reached(describe: Callable[[Row], str]) -> Callable[[Rows], Verdict]:
    """Of the life-cycle benches, whose rows carry their own verdict."""

    def read(rows: Rows) -> Verdict:
        there = [one for one in rows if "reached" in one]
        if not there:
            raise LookupError("no row with a verdict")
        return "; ".join(map(describe, there)), all(one["reached"] for one in there)

    return read


def swap_text(one: Row) -> str:
    got = one["figures"]
    calls = f"{got['failed'] + got['wrong']} of {got['sent']} calls bad in {got['swaps']} swaps"
    return f"{one['target']} {one['face']}: {calls}, p99 {got['p99_us']:.0f} µs ({got['quiet_p99_us']:.0f} quiet)"


def reload_text(one: Row) -> str:
    got = one["figures"]
    return f"{got['growth_percent']:+.2f} % after {got['cycles']} cycles"


def many_text(one: Row) -> str:
    got = one["figures"]
    return f"{got['available']} of {got['models']} in {got['start_s']:.1f} s, idle {got['idle_cpu_percent']:.2f} %"


def soak_growth(rows: Rows) -> Verdict:
    got = next(one["figures"] for one in rows)
    text = f"{got['growth_percent']:+.2f} % after {got['calls'] / 1e6:.1f} million calls"
    return at_most(got["growth_percent"], 2, text)


FIGURES: tuple[Figure, ...] = (
    Figure("skeleton", "half-plus-two: exec to ready ≤ bare dlopen + load + 0.5 s", "start", start_time),
    Figure("skeleton", "resident memory then ≤ bare + 90 MB", "start", start_memory),
    Figure("core", "engine alone, half-plus-two inline: ≤ 5 µs beyond the bare run", "engine", number("engine_half_plus_two_extra_us", 5, " µs")),
    Figure("core", "engine alone, MNIST, one image: ≤ 1.15 × bare run + 3 µs", "engine", engine_mnist),
    Figure("core", "codec, 3 floats: decode + encode ≤ 1 µs", "codec", number("codec_3_floats_us", 1, " µs")),
    Figure("core", "codec, 1 MiB, tensor_content ≤ 1.3 × two copies", "codec", number("codec_1mib_tensor_content_ratio", 1.3, " ×")),
    Figure("core", "codec, 1 MiB, packed float_val ≤ 1.3 × two copies", "codec", number("codec_1mib_float_val_ratio", 1.3, " ×")),
    Figure("core", "grpcio transport: CPU per Predict ≤ empty grpcio.aio echo + 12 µs", "transport", grpcio_over_echo),
    Figure("core", "16 MiB echo over grpcio: ≤ empty echo of that size + 2.5 × two copies + bare run", "large", large_time),
    Figure("core", "the same: peak memory of a call ≤ 4.2 × the tensor", "large", large_memory),
    Figure("native gRPC", "half-plus-two, 4 × 16: ≤ 9 µs of CPU per Predict", "transport", native_cpu),
    Figure("native gRPC", "the same: ≥ 9 × the echo's throughput", "transport", native_throughput),
    Figure("native gRPC", "one call at a time: mean latency ≤ 0.35 × the echo's", "transport", native_latency),
    Figure("native gRPC", "MNIST, one image, unbatched: ≤ 1.3 × bare run + 7 µs of CPU", "transport", native_mnist),
    Figure("native gRPC", "fast model beside a saturated slow one, same connection: p99 ≤ alone + 1 ms", "isolation", neighbour),
    Figure("native gRPC", "one connection, 64 streams: all cores", "isolation", all_cores),
    Figure("native gRPC", "1,000 idle connections ≤ 20 MB", "connections", number("idle_mb", 20, " MB")),
    Figure("native gRPC", "10,000 connections come and go under load: memory ≤ +2 %", "connections", number("growth_percent", 2, " %")),
    Figure("native gRPC", "10 million calls: memory flat (≤ +2 %)", "soak", soak_growth),
    *(
        Figure("batching", f"scheduler (without its producers' sleep), 64 in flight, {producers} producer(s), {name.replace('_', ' ')}: ≤ 1.5 µs per call", "batcher",
               scheduler(name, producers))
        for producers in (1, 8) for name in ("at_once", "full_batches")
    ),
    Figure("batching", "larger CNN, 64 in flight: ≥ 3 × the throughput unbatched", "batching", batching_gain),
    Figure("batching", "one client alone: p50 ≤ unbatched + 10 % + batch_timeout", "batching", batching_alone),
    Figure("batching", "2 × overload, 50 ms deadlines: goodput ≥ 0.9 of capacity", "batching", goodput),
    Figure("batching", "good calls beside misshapen ones and bad values: none fails", "poison", good_calls),
    Figure("life cycle", "20 swaps under load: no call fails; p99 ≤ 2 × or + 5 ms", "swap", reached(swap_text)),
    Figure("life cycle", "500 loads and unloads of 50 MB under load: memory ≤ +2 %", "reload_memory", reached(reload_text)),
    Figure("life cycle", "200 models: all serve in ≤ 8 s, idle < 1 % of a core", "many_models", reached(many_text)),
    Figure("REST", "three floats, 16 connections: CPU ≤ constant uvicorn answer + 16 µs", "rest", rest_cpu),
    Figure("REST", "the same: ≥ 0.6 × the constant answer's throughput", "rest", rest_throughput),
    *(
        Figure("REST", f"JSON codec, {kind}, 1,000 × 784: {side} ≥ {bound} × Python", "json_codec",
               number(f"json_{kind}_{side}_ratio", bound, " ×", least=True))
        for kind in ("dense", "mnist") for side, bound in (("decode", 6), ("encode", 8))
    ),
    Figure("REST", "one MNIST image as JSON: ≤ 70 µs of CPU", "rest", rest_image),
    Figure("client", "Predict of 4 MiB there and back: ≤ 0.3 × the CPU of tensorflow-serving-api", "client", number("client_4mib_large_ratio", 0.3, " ×")),
    Figure("client", "Predict of 4 MiB there, one float back: ≤ 0.3 ×", "client", number("client_4mib_small_ratio", 0.3, " ×")),
    Figure("client", "import ≤ 250 ms", "client", number("client_import_ms", 250, " ms")),
)  # fmt: skip


def table(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """(part, asked, measured, met?, command) for every figure."""
    lines = []
    for figure in FIGURES:
        try:
            text, met = figure.read(results[figure.suite]["rows"])
            lines.append((figure.part, figure.asked, text, "yes" if met else "**no**", figure.command))
        except (LookupError, StopIteration):
            lines.append((figure.part, figure.asked, "not measured", "–", figure.command))
    return lines
