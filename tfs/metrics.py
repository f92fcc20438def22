"""Every counter and histogram that a scrape sees, in the reference's names and layout.

Owns: the metric names, labels, bucket limits; the Prometheus text of the reference's page and of `/metrics`; the few counts that
Python makes itself (loads, MultiInference examples).  What the core counts comes as plain data from `Sources.counters`.
Must not know: engines, services, HTTP.  Any thread.

One collector in a private prometheus_client registry makes the families; one writer prints them.  The writer is ours because the
reference's format differs from the standard one (no HELP lines, `name{} 5`, six significant digits, counters without `_total`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.process_collector import ProcessCollector

# (count per bucket, not cumulative, the last one is +Inf; sum; number of samples)
Histogram: TypeAlias = tuple[Sequence[int], float, int]
Labels: TypeAlias = dict[str, str]

LATENCY_LIMITS: Final = tuple(10.0 * 1.8**i for i in range(33))
_QUEUING_LIMITS: Final = tuple(100.0 * 1.2**i for i in range(52))
_SIZE_LIMITS: Final = tuple(2.0**i for i in range(14))
_EXAMPLE_LIMITS: Final = tuple(2.0**i for i in range(15))
_ENTRIES: Final = ("GRPC", "REST")
_REST: Final = 1


class Family(NamedTuple):
    """One metric: its internal name (with slashes), kind, what it says, its bucket limits."""

    name: str
    kind: str
    help: str
    limits: Sequence[float] = ()


SERVING: Final = "/tensorflow/serving/"
BATCHING: Final = SERVING + "batching_session/"
SAVED_MODEL: Final = "/tensorflow/cc/saved_model/"
REQUEST_COUNT: Final = Family(SERVING + "request_count", "counter", "Requests by model and status.")
REQUEST_LATENCY: Final = Family(
    SERVING + "request_latency", "histogram", "Microseconds of successful requests.", LATENCY_LIMITS
)
RUNTIME_LATENCY: Final = Family(
    SERVING + "runtime_latency", "histogram", "Microseconds of successful runs of the graph.", LATENCY_LIMITS
)
EXAMPLE_COUNTS: Final = Family(
    SERVING + "request_example_counts", "histogram", "Examples in a MultiInference request.", _EXAMPLE_LIMITS
)
EXAMPLE_TOTAL: Final = Family(
    SERVING + "request_example_count_total", "counter", "Examples in MultiInference requests."
)
LOG_COUNT: Final = Family(SERVING + "request_log_count", "counter", "Requests logged; this server logs none.")
WARMUP_LATENCY: Final = Family(
    SERVING + "model_warmup_latency", "histogram", "Microseconds of replaying a warm-up file.", LATENCY_LIMITS
)
WARMUP_RECORDS: Final = Family(SERVING + "model_warmup_records_read", "counter", "Warm-up records read.")
MLMD_MAP: Final = Family(SERVING + "mlmd_map", "gauge", "Kept for its name; always empty.")
QUEUING_LATENCY: Final = Family(
    BATCHING + "queuing_latency", "histogram", "Microseconds in the batch queue.", _QUEUING_LIMITS
)
BATCHES: Final = Family(BATCHING + "wrapped_run_count", "counter", "Batches run.")
PADDING_SIZE: Final = Family(
    BATCHING + "padding_size", "histogram", "Rows of padding in a batch.", _SIZE_LIMITS
)
INPUT_SIZE: Final = Family(
    BATCHING + "input_batch_size", "histogram", "Rows of each input of a batched call.", _SIZE_LIMITS
)
PROCESSED_SIZE: Final = Family(
    BATCHING + "processed_batch_size", "histogram", "Rows of a batch, padding included.", _SIZE_LIMITS
)
LOAD_ATTEMPTS: Final = Family(SAVED_MODEL + "load_attempt_count", "counter", "Attempts to load a version.")
LOAD_LATENCY: Final = Family(SAVED_MODEL + "load_latency", "counter", "Microseconds of loading versions.")
# Batching by model and signature: family -> key of `Counters["batching"]`.
BATCH_SERIES: Final = (
    (
        Family("tfs_batch_wait_us", "histogram", "Microseconds calls wait for their batch.", _QUEUING_LIMITS),
        "wait",
    ),
    (Family("tfs_batch_rows", "histogram", "Rows of a batch without padding.", _SIZE_LIMITS), "size"),
    (Family("tfs_batch_calls_total", "counter", "Calls run in batches."), "calls"),
    (Family("tfs_batch_rows_total", "counter", "Rows run in batches."), "rows"),
    (Family("tfs_batch_padding_rows_total", "counter", "Rows of padding run in batches."), "padding_rows"),
    (Family("tfs_batch_reruns_total", "counter", "Runs to part good calls from bad ones."), "reruns"),
    (Family("tfs_batch_spoiled_calls_total", "counter", "Calls failed with their batch."), "spoiled"),
    (
        Family("tfs_batch_skipped_calls_total", "counter", "Calls expired or cancelled before their run."),
        "skipped",
    ),
    (Family("tfs_batch_queued_calls", "gauge", "Calls in open or waiting batches, now."), "queued_calls"),
    (Family("tfs_batch_queued_rows", "gauge", "Rows in open or waiting batches, now."), "queued_rows"),
)
CORE: Final = "/tensorflow/core/"
IN_GRAPH: Final = SERVING + "batching/"
# What TensorFlow counts inside itself. Its C API has no way to read it, so the reference's page names these and gives no number.
UNREAD: Final = (
    Family(SAVED_MODEL + "load_latency_by_stage", "histogram", "Microseconds of the stages of a load."),
    Family(CORE + "direct_session_runs", "counter", "Runs of sessions."),
    Family(CORE + "graph_pending_queue_length_histogram", "histogram", "Ops that wait for a thread."),
    Family(CORE + "graph_run_input_tensor_bytes", "histogram", "Bytes fed to a run."),
    Family(CORE + "graph_run_output_tensor_bytes", "histogram", "Bytes fetched from a run."),
    Family(CORE + "graph_run_time_usecs", "counter", "Microseconds of runs."),
    Family(CORE + "graph_run_time_usecs_histogram", "histogram", "Microseconds of a run."),
    Family(CORE + "graph_runs", "counter", "Runs of graphs."),
    Family(CORE + "saved_model/read/count", "counter", "SavedModels read."),
    Family(CORE + "session_created", "gauge", "Whether there was a session."),
    Family(IN_GRAPH + "mixed_priority_batching_policy", "gauge", "Of BatchFunction ops in a graph."),
    Family(IN_GRAPH + "padding_size_v2", "histogram", "Of BatchFunction ops in a graph."),
    Family(IN_GRAPH + "processed_batch_size_v2", "counter", "Of BatchFunction ops in a graph."),
)
QUEUED_CALLS: Final = Family("tfs_queued_calls", "gauge", "Calls that wait for a runner or a batch, now.")
QUEUED_BYTES: Final = Family("tfs_queued_bytes", "gauge", "Bytes of the requests that wait, now.")
RUNNING: Final = Family("tfs_running_calls", "gauge", "Runs of graphs under way, now.")


class WarmUpRow(Protocol):
    """What is known of the warm-ups of one version directory with one outcome."""

    records: int
    count: int
    sum_us: float
    buckets: list[int]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers come from. `counters` is `Engine.counters`; `api_names` method number -> the reference's API label, for the
    methods that the reference counts; `status_names` by canonical code."""

    counters: Callable[[], Mapping[str, Any]]
    api_names: Mapping[int, str]
    status_names: Sequence[str]
    warm_ups: Callable[[], Mapping[tuple[str, str], WarmUpRow]] = field(default=dict)


class Metrics:
    """All metrics of one server."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, str], int] = {}
        self._load_us: dict[str, int] = {}
        self._examples: dict[str, tuple[list[int], int, int]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    # -- counted here

    def count_load(self, path: str, succeeded: bool, elapsed_us: float) -> None:
        """One attempt to load the version in `path`."""
        with self._lock:
            key = path, "success" if succeeded else "fail"
            self._loads[key] = self._loads.get(key, 0) + 1
            self._load_us[path] = self._load_us.get(path, 0) + int(elapsed_us)

    def count_examples(self, model: str, examples: int) -> None:
        """One MultiInference of so many Examples."""
        with self._lock:
            buckets, total, count = self._examples.get(model, ([0] * (len(_EXAMPLE_LIMITS) + 1), 0, 0))
            at = next(
                (i for i, limit in enumerate(_EXAMPLE_LIMITS) if examples < limit), len(_EXAMPLE_LIMITS)
            )
            buckets[at] += 1
            self._examples[model] = buckets, total + examples, count + 1

    # -- read

    def reference_page(self) -> bytes:
        """The page at the path of the monitoring configuration: the reference's metrics in the reference's format."""
        metrics = [metric for metric in self._registry.collect() if metric.name.startswith(":")]
        metrics += [_metric(family) for family in UNREAD]
        return "".join(_lines(sorted(metrics, key=lambda one: one.name), standard=False)).encode()

    def standard_page(self) -> bytes:
        """The page at `/metrics`: the same metrics in the standard format, with our own and the process's."""
        return "".join(_lines(self._registry.collect(), standard=True)).encode()

    def first_value(self, name: str) -> int:
        """The value of the first cell of a metric by its internal name, as HandleReloadConfigRequest reports it: 0 when there is
        no such metric or cell, or when it is no number."""
        for metric in self.collect():
            if metric.name == mangled(name) and metric.type in ("counter", "gauge"):
                cells = sorted(metric.samples, key=lambda sample: list(sample.labels.values()))
                return int(cells[0].value) if cells else 0
        return 0

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's interface of a collector."""
        counters = self._sources.counters()
        yield from self._requests(counters)
        yield from _batching(counters)
        yield from self._counted_here()
        for family, key in (
            (QUEUED_CALLS, "queued_calls"),
            (QUEUED_BYTES, "queued_bytes"),
            (RUNNING, "running"),
        ):
            yield _numbers(family, [({}, counters[key])])

    def _requests(self, counters: Mapping[str, Any]) -> Iterator[Metric]:
        names, statuses = self._sources.api_names, self._sources.status_names
        requests: dict[tuple[str, str], int] = {}
        for (model, method, entry, code), count in counters["requests"].items():
            if method in names or entry == _REST:
                key = model, statuses[code]
                requests[key] = requests.get(key, 0) + count
        yield _numbers(
            REQUEST_COUNT, [({"model_name": m, "status": s}, n) for (m, s), n in sorted(requests.items())]
        )
        latencies = []
        for (model, method, entry), histogram in sorted(counters["latency"].items()):
            if entry == _REST:
                api = names.get(method, "").lower()
            elif method in names:
                api = names[method]
            else:
                continue
            latencies.append(({"model_name": model, "API": api, "entrypoint": _ENTRIES[entry]}, histogram))
        yield _histograms(REQUEST_LATENCY, latencies)
        runs = [
            ({"model_name": model, "API": names[method], "runtime": "TF1"}, histogram)
            for (model, method), histogram in sorted(counters["run"].items())
            if method in names
        ]
        yield _histograms(RUNTIME_LATENCY, runs)

    def _counted_here(self) -> Iterator[Metric]:
        with self._lock:
            loads, load_us = dict(self._loads), dict(self._load_us)
            examples = {model: (list(b), total, count) for model, (b, total, count) in self._examples.items()}
        warm_ups = sorted(self._sources.warm_ups().items())
        labelled = [({"model_path": path, "status": status}, row) for (path, status), row in warm_ups]
        yield _numbers(WARMUP_RECORDS, [(labels, row.records) for labels, row in labelled])
        yield _histograms(
            WARMUP_LATENCY, [(labels, (row.buckets, row.sum_us, row.count)) for labels, row in labelled]
        )
        yield _histograms(
            EXAMPLE_COUNTS, [({"model": model}, cell) for model, cell in sorted(examples.items())]
        )
        yield _numbers(
            EXAMPLE_TOTAL, [({"model": model}, total) for model, (_, total, _) in sorted(examples.items())]
        )
        yield _numbers(
            LOAD_ATTEMPTS, [({"model_path": p, "status": s}, n) for (p, s), n in sorted(loads.items())]
        )
        yield _numbers(LOAD_LATENCY, [({"model_path": path}, us) for path, us in sorted(load_us.items())])
        yield _numbers(LOG_COUNT, [])
        yield _numbers(MLMD_MAP, [])


def mangled(name: str) -> str:
    """An internal name as Prometheus shows it: `/` and everything but letters, digits and `_` become `:`."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else ":" for c in name)


def _batching(counters: Mapping[str, Any]) -> Iterator[Metric]:
    """The reference makes the size histograms when the first batch runs."""
    batches, queuing = counters["batches"], counters["queuing"]
    yield _histograms(QUEUING_LATENCY, [({"thread_pool_name": ""}, queuing)] if queuing[2] else [])
    yield _numbers(BATCHES, [({}, batches)] if batches else [])
    if batches:
        yield _histograms(INPUT_SIZE, [({}, counters["input_size"])])
        yield _histograms(PROCESSED_SIZE, [({}, counters["processed_size"])])
        padding = sorted(counters["padding"].items())
        yield _histograms(
            PADDING_SIZE, [({"execution_batch_size": str(size)}, cell) for size, cell in padding]
        )
    series = sorted(counters["batching"].items())
    for family, key in BATCH_SERIES:
        cells = [({"model_name": m, "signature_name": s}, one[key]) for (m, s), one in series]
        yield _histograms(family, cells) if family.kind == "histogram" else _numbers(family, cells)


def _metric(family: Family) -> Metric:
    metric = Metric("placeholder", family.help, family.kind)
    metric.name = mangled(family.name)  # Metric would strip a counter's `_total`
    return metric


def _numbers(family: Family, rows: Iterable[tuple[Labels, float]]) -> Metric:
    metric = _metric(family)
    for labels, value in rows:
        metric.add_sample(metric.name, labels, value)
    return metric


def _histograms(family: Family, rows: Iterable[tuple[Labels, Histogram]]) -> Metric:
    metric = _metric(family)
    limits = [f"{limit:.6g}" for limit in family.limits] + ["+Inf"]
    for labels, (buckets, total, count) in rows:
        below = 0
        for limit, inside in zip(limits, buckets, strict=True):
            below += inside
            metric.add_sample(metric.name + "_bucket", labels | {"le": limit}, below)
        metric.add_sample(metric.name + "_sum", labels, total)
        metric.add_sample(metric.name + "_count", labels, count)
    return metric


def _lines(metrics: Iterable[Metric], *, standard: bool) -> Iterator[str]:
    for metric in metrics:
        if standard:
            yield f"# HELP {metric.name} {metric.documentation}\n"
        yield f"# TYPE {metric.name} {metric.type}\n"
        for sample in metric.samples:
            labels = ",".join(
                f'{name}="{_escaped(value, standard)}"' for name, value in sample.labels.items()
            )
            braced = f"{{{labels}}}" if labels or not standard else ""
            yield f"{sample.name}{braced} {_number(sample.value, standard)}\n"


def _number(value: float, standard: bool) -> str:
    """Six digits are the reference's; on the standard page they would hide restarts (seconds since 1970) and slow growth of sums."""
    if isinstance(value, int) or (standard and value.is_integer()):
        return str(int(value))
    return repr(float(value)) if standard else format(value, ".6g")


def _escaped(value: str, standard: bool) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return escaped.replace("\n", "\\n") if standard else escaped
