"""Settings: what flags mean together, and text-format files with the reference's errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfs import messages
from tfs.config import (
    DEFAULT_PROMETHEUS_PATH,
    BatchingParameters,
    Monitoring,
    Settings,
    prepare,
    read_batching_parameters,
    read_text_proto,
)
from tfs.errors import Code, TfsError

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(TEXT): the path of a file that holds it."""

    def put(text: str) -> str:
        path = tmp_path / f"file{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        return str(path)

    return put


def settings(**values: Any) -> Settings:
    return Settings(**({"model_base_path": "/m"} | values))


def failure(call: Callable[[], object]) -> str:
    """`CODE: text` of the TfsError that `call` raises."""
    with pytest.raises(TfsError) as caught:
        call()
    return caught.value.status_text


# --- combinations ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"port": 0},
            "INVALID_ARGUMENT: At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.",
        ),
        (
            {"use_alts_credentials": True, "ssl_config_file": "/s"},
            "INVALID_ARGUMENT: Either use_alts_credentials must be false or ssl_config_file must be empty.",
        ),
        (
            {"model_base_path": ""},
            "INVALID_ARGUMENT: Both server_options.model_base_path and server_options.model_config_file are empty!",
        ),
        (
            {"batching_parameters_file": "/b"},
            "INVALID_ARGUMENT: server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
        ),
        (
            {
                "tensorflow_session_parallelism": 1,
                "tensorflow_intra_op_parallelism": 1,
                "tensorflow_inter_op_parallelism": 1,
            },
            "INVALID_ARGUMENT: Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) separately. "
            "You cannot configure all.",
        ),
        (
            {"use_alts_credentials": True},
            "UNIMPLEMENTED: --use_alts_credentials is not supported; use --ssl_config_file for TLS.",
        ),
        (
            {"grpc_channel_arguments": "grpc.x"},
            "INVALID_ARGUMENT: --grpc_channel_arguments: expected key=value, got 'grpc.x'",
        ),
        ({"port": 99999}, "INVALID_ARGUMENT: --port: expected 0 to 65535, got 99999"),
        ({"rest_api_port": -1}, "INVALID_ARGUMENT: --rest_api_port: expected 0 to 65535, got -1"),
    ],
)
def test_flags_that_cannot_be_combined(values: dict[str, Any], text: str) -> None:
    assert failure(lambda: prepare(settings(**values))) == text


def test_a_socket_is_enough() -> None:
    settings(port=0, grpc_socket_path="s").check()


def test_defaults_prepare() -> None:
    prepared = prepare(settings(model_name="half"))
    assert [(m.name, m.base_path, m.model_platform) for m in prepared.models.model_config_list.config] == [
        ("half", "/m", "tensorflow")
    ]
    assert prepared.loading.batching is None
    assert prepared.loading.saved_model_tags == ("serve",)
    assert prepared.loading.enable_model_warmup
    assert (prepared.ssl, prepared.rest_ssl, prepared.monitoring) == (None, None, Monitoring(False))


def test_flags_without_effect_are_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(
            settings(
                prefer_tflite_model=True,
                enable_profiler=False,
                mixed_precision="float8",
                enable_batching=True,
            )
        )
    assert [line.partition(" has no effect")[0] for line in caplog.messages] == [
        "--prefer_tflite_model",
        "--enable_profiler",
        "--mixed_precision=float8",
    ]


@pytest.mark.parametrize(
    ("both", "intra", "inter", "threads"),
    [
        (0, 0, 0, (0, 0)),
        (3, 0, 0, (3, 3)),
        (3, 2, 0, (2, 0)),
        (3, 0, 2, (0, 2)),
        (0, 1, 2, (1, 2)),
        (3, -1, 0, (3, 3)),
        (0, 2, -(1 << 40), (2, -1)),
    ],
)
def test_session_threads(both: int, intra: int, inter: int, threads: tuple[int, int]) -> None:
    chosen = settings(
        tensorflow_session_parallelism=both,
        tensorflow_intra_op_parallelism=intra,
        tensorflow_inter_op_parallelism=inter,
    )
    assert chosen.session_threads() == threads


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"tensorflow_session_parallelism": -1}, "--tensorflow_session_parallelism"),
        ({"tensorflow_session_parallelism": 1 << 31}, "--tensorflow_session_parallelism"),
        ({"tensorflow_intra_op_parallelism": 4097}, "--tensorflow_intra_op_parallelism"),
        (
            {"tensorflow_intra_op_parallelism": -1, "tensorflow_inter_op_parallelism": 1},
            "--tensorflow_intra_op_parallelism",
        ),
        ({"tensorflow_inter_op_parallelism": (1 << 63) - 1}, "--tensorflow_inter_op_parallelism"),
    ],
)
def test_thread_counts_that_would_end_the_process(values: dict[str, Any], text: str) -> None:
    assert failure(lambda: prepare(settings(**values))).startswith(
        f"INVALID_ARGUMENT: {text} must be between 0 and 4096, not "
    )


@pytest.mark.parametrize("count", [-1, 1_000_000])
def test_thread_counts_in_files(tmp_path: Path, count: int) -> None:
    file = tmp_path / "session"
    file.write_text(f"session_inter_op_thread_pool {{ num_threads: {count} }}")
    assert failure(lambda: prepare(settings(tensorflow_session_config_file=str(file)))).startswith(
        f"INVALID_ARGUMENT: {file}: session_inter_op_thread_pool.num_threads must be between 0 and 4096"
    )


def test_tags() -> None:
    assert settings(saved_model_tags="serve,special").loading_options().saved_model_tags == (
        "serve",
        "special",
    )
    assert settings(saved_model_tags="").loading_options().saved_model_tags == ("serve",)


def test_channel_arguments() -> None:
    given = "grpc.max_connection_age_ms=2000,grpc.lb_policy_name=pick,grpc.big=99999999999,grpc.minus=-1"
    assert settings(grpc_channel_arguments=given).grpc_arguments() == (
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.lb_policy_name", "pick"),
        ("grpc.big", "99999999999"),
        ("grpc.minus", -1),
    )


# --- the session config ---------------------------------------------------------------------------------------------------------


def session_config(**values: Any) -> messages.ConfigProto:
    return messages.ConfigProto.FromString(settings(**values).session_config())


@pytest.fixture(autouse=True)
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that expectations do not depend on the machine."""
    monkeypatch.setattr("tfs.cores.usable", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))


def test_session_config_of_defaults_is_empty() -> None:
    assert settings().session_config() == b""


@pytest.mark.parametrize(
    ("usable", "seen", "threads"), [(1, 1, 1), (2, 2, 1), (2, 64, 1), (3, 64, 3), (16, 64, 16), (64, 64, 0)]
)
def test_threads_inside_ops_where_no_flag_says(
    monkeypatch: pytest.MonkeyPatch, usable: int, seen: int, threads: int
) -> None:
    monkeypatch.setattr("tfs.cores.usable", lambda: usable)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(seen)))
    assert session_config().intra_op_parallelism_threads == threads
    asked = session_config(tensorflow_inter_op_parallelism=5)
    assert (asked.intra_op_parallelism_threads, asked.inter_op_parallelism_threads) == (0, 5)
    assert session_config(tensorflow_intra_op_parallelism=7).intra_op_parallelism_threads == 7


def test_session_config_of_flags() -> None:
    config = session_config(
        tensorflow_intra_op_parallelism=300,
        tensorflow_inter_op_parallelism=2,
        per_process_gpu_memory_fraction=0.25,
        allow_growth=True,
        visible_devices="0,1",
        mixed_precision="bfloat16",
    )
    expected = messages.ConfigProto(intra_op_parallelism_threads=300, inter_op_parallelism_threads=2)
    expected.gpu_options.per_process_gpu_memory_fraction = 0.25
    expected.gpu_options.allow_growth = True
    expected.gpu_options.visible_device_list = "0,1"
    expected.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = messages.RewriterConfig.ON
    assert config == expected


def test_flags_overwrite_threads_and_fraction_even_by_default(write: Write) -> None:
    path = write(
        "intra_op_parallelism_threads: 7 inter_op_parallelism_threads: 8 allow_soft_placement: true\n"
        "gpu_options { per_process_gpu_memory_fraction: 0.5 allow_growth: true }\n"
        "graph_options { optimizer_options { global_jit_level: ON_1 } rewrite_options { constant_folding: OFF } }"
    )
    config = session_config(tensorflow_session_config_file=path, mixed_precision="bfloat16")
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (0, 0)
    assert (config.gpu_options.per_process_gpu_memory_fraction, config.gpu_options.allow_growth) == (
        0.0,
        True,
    )
    assert config.allow_soft_placement
    assert config.graph_options.optimizer_options.global_jit_level == 1
    assert (
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16
        == messages.RewriterConfig.ON
    )
    assert config.graph_options.rewrite_options.constant_folding == messages.RewriterConfig.OFF  # type: ignore[attr-defined]
    assert (
        session_config(
            tensorflow_session_config_file=path, tensorflow_session_parallelism=4
        ).intra_op_parallelism_threads
        == 4
    )


# --- text-format files ----------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    assert (
        failure(lambda: prepare(settings(model_config_file=path)))
        == f"NOT_FOUND: {path}; No such file or directory"
    )


@pytest.mark.parametrize(
    "flag",
    [
        "model_config_file",
        "platform_config_file",
        "ssl_config_file",
        "rest_ssl_config_file",
        "tensorflow_session_config_file",
        "thread_pool_factory_config_file",
        "monitoring_config_file",
        "batching_parameters_file",
    ],
)
def test_every_file_is_read_strictly(flag: str, write: Write) -> None:
    values: dict[str, Any] = {flag: write("no_such_field: 1"), "enable_batching": True, "rest_api_port": 1}
    assert (
        failure(lambda: prepare(settings(**values)))
        == f"INVALID_ARGUMENT: Invalid protobuf file: '{values[flag]}'"
    )


def test_directory_and_empty_file(tmp_path: Path, write: Write) -> None:
    folder, empty = str(tmp_path), write("")
    assert (
        failure(lambda: read_text_proto(folder, messages.ModelServerConfig))
        == f"NOT_FOUND: {folder}; No such device"
    )
    assert (
        failure(lambda: read_text_proto(empty, messages.ModelServerConfig))
        == f"INVALID_ARGUMENT: {empty}; Invalid argument"
    )


def test_path_through_a_file(write: Write) -> None:
    path = write("x") + "/y"
    assert (
        failure(lambda: read_text_proto(path, messages.SSLConfig))
        == f"FAILED_PRECONDITION: {path}; Not a directory"
    )


def test_a_comment_alone_is_an_empty_message(write: Write) -> None:
    assert read_text_proto(write("# nothing\n"), messages.ModelServerConfig) == messages.ModelServerConfig()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model_config_list {\n  config {\n    nam: 'x'\n  }\n}", "3:"),
        ("model_config_list {\n", "1:"),
        ("model_config_list { config { name: 5 } }", "1:"),
        ("model_config_list { config { name: 'a' name: 'b' } }", "1:"),
    ],
)
def test_syntax_errors_name_line_and_column(
    text: str, line: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(text)
    with pytest.raises(TfsError) as caught:
        read_text_proto(path, messages.ModelServerConfig)
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_ARGUMENT,
        f"Invalid protobuf file: '{path}'",
    )
    assert len(caplog.messages) == 1
    start = "Error parsing text-format tensorflow.serving.ModelServerConfig: "
    assert re.match(re.escape(start + line) + r"\d+: \S", caplog.messages[0])
    assert "\n" not in caplog.messages[0]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"# \xff\nmodel_config_list { }")
    assert read_text_proto(str(path), messages.ModelServerConfig).HasField("model_config_list")
    path.write_bytes(b"model_config_list { config { name: '\xff' } }")
    assert failure(lambda: read_text_proto(str(path), messages.ModelServerConfig)).startswith(
        "INVALID_ARGUMENT: Invalid"
    )


def test_text_forms_that_people_use(write: Write) -> None:
    text = (
        'model_config_list { config: [ { name: "m\\x31\\u00e9\xe9" base_path: "/p" model_platform: "tensor" "flow";\n'
        'version_labels { key: "s" value: 10 } version_labels { key: "s" value: 1 },\n'
        "model_version_policy { specific { versions: [1, 0x2] } } } ] }"
    )
    (model,) = read_text_proto(write(text), messages.ModelServerConfig).model_config_list.config
    assert (model.name, model.model_platform, dict(model.version_labels)) == (
        "m1\xe9\xe9",
        "tensorflow",
        {"s": 1},
    )
    assert list(model.model_version_policy.specific.versions) == [1, 2]


# --- batching -------------------------------------------------------------------------------------------------------------------


def test_batching_without_a_file() -> None:
    assert settings(enable_batching=True).batching() == BatchingParameters(
        thread_pool_name="model_server_batch_threads"
    )


def test_batching_file(write: Write) -> None:
    text = (
        "max_batch_size { value: 8 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: -1 }\n"
        "num_batch_threads { value: 2 } thread_pool_name { value: 't' } allowed_batch_sizes: 4 allowed_batch_sizes: 8\n"
        "pad_variable_length_inputs: true enable_large_batch_splitting { value: false } max_execution_batch_size { value: 2 }"
    )
    assert read_batching_parameters(write(text)) == BatchingParameters(
        8, 0, -1, 2, "t", (4, 8), True, False, 2
    )
    assert read_batching_parameters(write("# none\n")) == BatchingParameters()


def test_wrapped_numbers_need_braces(write: Write) -> None:
    assert "Invalid protobuf file" in failure(lambda: read_batching_parameters(write("max_batch_size: 8")))


@pytest.mark.parametrize("threads", [0, -3])
def test_batch_threads_must_be_positive(threads: int, write: Write) -> None:
    values = {
        "enable_batching": True,
        "batching_parameters_file": write(f"num_batch_threads {{ value: {threads} }}"),
    }
    assert failure(lambda: prepare(settings(**values))) == (
        f"INVALID_ARGUMENT: num_batch_threads must be positive; was {threads}"
    )


def test_per_model_batching_needs_batching() -> None:
    assert not settings(enable_per_model_batching_parameters=True).loading_options().per_model_batching
    both = settings(enable_per_model_batching_parameters=True, enable_batching=True)
    assert both.loading_options().per_model_batching


# --- platform, monitoring, TLS --------------------------------------------------------------------------------------------------

PLATFORM = (
    'platform_configs {{ key: "{name}" value {{ source_adapter_config {{\n'
    "[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {{ legacy_config {{ {config} }} }} }} }} }}"
)


def test_platform_config_replaces_the_flags(write: Write) -> None:
    config = (
        "saved_model_tags: 'other' enable_model_warmup: true model_warmup_options { num_request_iterations { value: 3 } }\n"
        "session_config { intra_op_parallelism_threads: 5 } batching_parameters { max_batch_size { value: 4 } }"
    )
    path = write(PLATFORM.format(name="tensorflow", config=config))
    loading = settings(
        platform_config_file=path, saved_model_tags="mine", enable_model_warmup=False
    ).loading_options()
    assert loading.saved_model_tags == ("other",)
    assert (loading.enable_model_warmup, loading.warmup_iterations) == (True, 3)
    assert messages.ConfigProto.FromString(loading.session_config).intra_op_parallelism_threads == 5
    assert loading.batching == BatchingParameters(max_batch_size=4)
    assert loading.platforms == {"tensorflow"}


def test_platform_config_of_defaults(write: Write) -> None:
    loading = settings(
        platform_config_file=write(PLATFORM.format(name="tensorflow", config=""))
    ).loading_options()
    assert (loading.saved_model_tags, loading.batching, loading.enable_model_warmup) == (
        ("serve",),
        None,
        False,
    )


def test_platform_config_without_our_platform(write: Write) -> None:
    assert settings(platform_config_file=write("# none\n")).loading_options().platforms == frozenset()


def test_platform_config_of_another_type(write: Write) -> None:
    path = write(
        "platform_configs { key: 'tensorflow' value { source_adapter_config { type_url: 'x/y.Z' } } }"
    )
    assert "not 'x/y.Z'" in failure(lambda: settings(platform_config_file=path).loading_options())


@pytest.mark.parametrize(
    ("text", "monitoring"),
    [
        ("prometheus_config { enable: true path: '/metrics' }", Monitoring(True, "/metrics")),
        ("prometheus_config { enable: true }", Monitoring(True, DEFAULT_PROMETHEUS_PATH)),
        ("prometheus_config { }", Monitoring(False, DEFAULT_PROMETHEUS_PATH)),
        ("# nothing", Monitoring(False, DEFAULT_PROMETHEUS_PATH)),
    ],
)
def test_monitoring(text: str, monitoring: Monitoring, write: Write) -> None:
    assert settings(monitoring_config_file=write(text), rest_api_port=1).monitoring() == monitoring


def test_monitoring_is_not_read_without_rest() -> None:
    assert settings(monitoring_config_file="/absent").monitoring() == Monitoring(False)


def test_ssl(write: Write) -> None:
    path = write("server_key: 'k\\nk' server_cert: 'c' client_verify: true")
    ssl = prepare(settings(ssl_config_file=path)).ssl
    assert ssl is not None
    assert (ssl.server_key, ssl.server_cert, ssl.custom_ca, ssl.client_verify) == ("k\nk", "c", "", True)
    assert prepare(settings(rest_ssl_config_file=path)).rest_ssl == ssl


def test_ssl_without_a_key(write: Write) -> None:
    assert "server_key is empty" in failure(
        lambda: prepare(settings(ssl_config_file=write("server_cert: 'c'")))
    )
