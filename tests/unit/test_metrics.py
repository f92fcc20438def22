"""The Prometheus pages: names, labels, layout, and what counts as what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tfs._fastpath import ENTRY_GRPC, ENTRY_REST, METHOD_CLASSIFY, METHOD_MULTI, METHOD_OTHER, METHOD_PREDICT
from tfs.errors import Code
from tfs.metrics import LATENCY_LIMITS, Metrics, Sources, mangled
from tfs.service.methods import API_NAMES

P = ":tensorflow:serving:"


@dataclass
class Row:
    records: int
    count: int
    sum_us: float
    buckets: list[int] = field(default_factory=lambda: [0] * 34)


def histogram(size: int, *places: int, total: float = 0.0) -> tuple[list[int], float, int]:
    buckets = [0] * size
    for place in places:
        buckets[place] += 1
    return buckets, total, len(places)


def counters(**more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "requests": {},
        "latency": {},
        "run": {},
        "queuing": histogram(53),
        "batches": 0,
        "input_size": histogram(15),
        "processed_size": histogram(15),
        "padding": {},
        "batching": {},
        "queued_calls": 3,
        "queued_bytes": 1_234_567,
        "running": 1,
    }
    return empty | more


def made(warm_ups: Any = None, **more: Any) -> Metrics:
    snapshot = counters(**more)
    statuses = [code.name for code in Code]
    return Metrics(Sources(lambda: snapshot, API_NAMES, statuses, lambda: warm_ups or {}))


def lines(metrics: Metrics, start: str) -> list[str]:
    return [line for line in metrics.reference_page().decode().splitlines() if line.startswith(start)]


def test_requests_are_counted_by_model_and_status() -> None:
    metrics = made(
        requests={
            ("m", METHOD_PREDICT, ENTRY_GRPC, 0): 5,
            ("m", METHOD_PREDICT, ENTRY_REST, 0): 2,
            ("m", METHOD_CLASSIFY, ENTRY_GRPC, 3): 1,
            ("m", METHOD_MULTI, ENTRY_GRPC, 0): 100,
            ("", METHOD_OTHER, ENTRY_REST, 9): 4,
            ('a"\\b', METHOD_PREDICT, ENTRY_GRPC, 5): 1,
        }
    )
    assert lines(metrics, P + "request_count") == [
        P + 'request_count{model_name="",status="FAILED_PRECONDITION"} 4',
        P + 'request_count{model_name="a\\"\\\\b",status="NOT_FOUND"} 1',
        P + 'request_count{model_name="m",status="INVALID_ARGUMENT"} 1',
        P + 'request_count{model_name="m",status="OK"} 7',
    ]


def test_latencies_name_the_api_and_the_entrance() -> None:
    one = histogram(34, 0, 0, 2, 33, total=12_345_678.9)
    metrics = made(
        latency={
            ("m", METHOD_PREDICT, ENTRY_GRPC): one,
            ("m", METHOD_PREDICT, ENTRY_REST): one,
            ("m", METHOD_OTHER, ENTRY_REST): one,
            ("m", METHOD_MULTI, ENTRY_GRPC): one,
        },
        run={("m", METHOD_PREDICT): one, ("m", METHOD_MULTI): one},
    )
    counts = lines(metrics, P + "request_latency_count")
    assert counts == [
        P + 'request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 4',
        P + 'request_latency_count{model_name="m",API="predict",entrypoint="REST"} 4',
        P + 'request_latency_count{model_name="m",API="",entrypoint="REST"} 4',
    ]
    assert lines(metrics, P + "runtime_latency_count") == [
        P + 'runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 4'
    ]
    labels = 'model_name="m",API="Predict",runtime="TF1"'
    buckets = lines(metrics, P + "runtime_latency_bucket")
    assert len(buckets) == 34
    assert buckets[:4] == [
        f'{P}runtime_latency_bucket{{{labels},le="{limit}"}} {count}'
        for limit, count in (("10", 2), ("18", 2), ("32.4", 3), ("58.32", 3))
    ]
    assert buckets[-2:] == [
        f'{P}runtime_latency_bucket{{{labels},le="1.47476e+09"}} 3',
        f'{P}runtime_latency_bucket{{{labels},le="+Inf"}} 4',
    ]
    assert lines(metrics, P + "runtime_latency_sum") == [f"{P}runtime_latency_sum{{{labels}}} 1.23457e+07"]
    assert f"{P}runtime_latency_sum{{{labels}}} 12345678.9\n" in metrics.standard_page().decode()


def test_batching_shows_up_with_the_first_batch() -> None:
    quiet, busy = (
        made(),
        made(
            batches=7,
            queuing=histogram(53, 1, total=110.0),
            input_size=histogram(15, 2),
            processed_size=histogram(15, 3),
            padding={8: histogram(15, 1), 4: histogram(15, 0)},
        ),
    )
    b = P + "batching_session:"
    assert lines(quiet, "# TYPE " + b) == [
        f"# TYPE {b}queuing_latency histogram",
        f"# TYPE {b}wrapped_run_count counter",
    ]
    assert lines(quiet, b) == []
    assert lines(busy, b + "wrapped_run_count") == [b + "wrapped_run_count{} 7"]
    assert lines(busy, b + "queuing_latency_count") == [b + 'queuing_latency_count{thread_pool_name=""} 1']
    assert [line.split("{")[1] for line in lines(busy, b + "padding_size_count")] == [
        'execution_batch_size="4"} 1',
        'execution_batch_size="8"} 1',
    ]
    assert lines(busy, b + "input_batch_size_bucket")[-2:] == [
        b + 'input_batch_size_bucket{le="8192"} 1',
        b + 'input_batch_size_bucket{le="+Inf"} 1',
    ]


def test_what_python_counts() -> None:
    warm_ups = {("/m/1", "OK"): Row(5, 1, 20.0, histogram(34, 1)[0])}
    metrics = made(warm_ups)
    metrics.count_load("/m/1", True, 100.7)
    metrics.count_load("/m/1", False, 50)
    metrics.count_examples("m", 3)
    metrics.count_examples("m", 100_000)
    s = ":tensorflow:cc:saved_model:"
    assert lines(metrics, s + "load_attempt_count") == [
        s + 'load_attempt_count{model_path="/m/1",status="fail"} 1',
        s + 'load_attempt_count{model_path="/m/1",status="success"} 1',
    ]
    assert lines(metrics, s + "load_latency{") == [s + 'load_latency{model_path="/m/1"} 150']
    assert lines(metrics, P + "request_example_count_total") == [
        P + 'request_example_count_total{model="m"} 100003'
    ]
    assert lines(metrics, P + "request_example_counts_bucket")[2] == (
        P + 'request_example_counts_bucket{model="m",le="4"} 1'
    )
    assert lines(metrics, P + "model_warmup_records_read") == [
        P + 'model_warmup_records_read{model_path="/m/1",status="OK"} 5'
    ]
    assert lines(metrics, P + "model_warmup_latency_count") == [
        P + 'model_warmup_latency_count{model_path="/m/1",status="OK"} 1'
    ]


def test_the_reference_page_is_sorted_and_has_no_help() -> None:
    page = made().reference_page().decode()
    types = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert types == sorted(types)
    assert len(types) == len(set(types))
    assert "# HELP" not in page
    assert all(name.startswith(":tensorflow:") for name in types)


def test_what_tensorflow_counts_is_named_without_numbers() -> None:
    metrics = made()
    for name, kind in (
        (":tensorflow:core:graph_runs", "counter"),
        (":tensorflow:core:session_created", "gauge"),
        (":tensorflow:cc:saved_model:load_latency_by_stage", "histogram"),
        (":tensorflow:serving:batching:padding_size_v2", "histogram"),
    ):
        assert lines(metrics, f"# TYPE {name} ") == [f"# TYPE {name} {kind}"]
        assert lines(metrics, name) == []
        assert name + " " not in metrics.standard_page().decode()


def test_the_standard_page_reads_as_prometheus_reads_it() -> None:
    metrics = made(
        requests={("a\nb", METHOD_PREDICT, ENTRY_GRPC, 0): 5},
        latency={("m", METHOD_PREDICT, ENTRY_REST): histogram(34, 3, total=1e6)},
    )
    families = {one.name: one for one in text_string_to_metric_families(metrics.standard_page().decode())}
    assert families["tfs_queued_calls"].samples[0].value == 3
    assert families["tfs_queued_bytes"].samples[0].value == 1_234_567
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    sample = families[P + "request_count"].samples[0]
    assert (sample.labels, sample.value) == ({"model_name": "a\nb", "status": "OK"}, 5)
    latency = families[P + "request_latency"]
    assert latency.type == "histogram"
    assert [s.value for s in latency.samples if s.name.endswith("_sum")] == [1e6]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("/tensorflow/serving/request_count", 4),
        ("/tensorflow/serving/request_latency", 0),
        ("/tensorflow/serving/request_log_count", 0),
        ("/tensorflow/cc/saved_model/load_attempt_count", 1),
        ("/no/such/metric", 0),
        ("", 0),
    ],
)
def test_first_values(name: str, value: int) -> None:
    metrics = made(
        requests={("b", 0, 0, 0): 9, ("a", 0, 0, 3): 4},
        latency={("a", 0, 0): histogram(34, 1)},
    )
    metrics.count_load("/p", True, 1)
    assert metrics.first_value(name) == value


def test_names_are_mangled() -> None:
    assert mangled("/tensorflow/serving/a-b.c_9") == ":tensorflow:serving:a:b:c_9"
    assert LATENCY_LIMITS[0] == 10
