"""Command lines: the reference's syntax and its mistakes, and the strict `tfs serve`."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from tfs import cli
from tfs.command_line import convert, nearest, parse, usage
from tfs.config import Settings
from tfs.errors import InvalidArgument, NotFound
from tfs.flags import FLAGS, GROUPS, REFERENCE_FLAGS, Flags

# The 48 flags of the reference in its order: type and default (None: depends on the machine).
REFERENCE: list[tuple[str, str, Any]] = [
    ("port", "int32", 8500),
    ("grpc_socket_path", "string", ""),
    ("rest_api_port", "int32", 0),
    ("rest_api_num_threads", "int32", None),
    ("rest_api_timeout_in_ms", "int32", 30000),
    ("rest_api_enable_cors_support", "bool", False),
    ("enable_batching", "bool", False),
    ("allow_version_labels_for_unavailable_models", "bool", False),
    ("batching_parameters_file", "string", ""),
    ("enable_per_model_batching_parameters", "bool", False),
    ("model_config_file", "string", ""),
    ("model_config_file_poll_wait_seconds", "int32", 0),
    ("model_name", "string", "default"),
    ("model_base_path", "string", ""),
    ("num_load_threads", "int32", 0),
    ("num_unload_threads", "int32", 0),
    ("max_num_load_retries", "int32", 5),
    ("load_retry_interval_micros", "int64", 60_000_000),
    ("file_system_poll_wait_seconds", "int32", 1),
    ("flush_filesystem_caches", "bool", True),
    ("tensorflow_session_parallelism", "int64", 0),
    ("tensorflow_session_config_file", "string", ""),
    ("tensorflow_intra_op_parallelism", "int64", 0),
    ("tensorflow_inter_op_parallelism", "int64", 0),
    ("use_alts_credentials", "bool", False),
    ("ssl_config_file", "string", ""),
    ("platform_config_file", "string", ""),
    ("per_process_gpu_memory_fraction", "float", 0.0),
    ("saved_model_tags", "string", "serve"),
    ("grpc_channel_arguments", "string", ""),
    ("grpc_max_threads", "int32", None),
    ("enable_model_warmup", "bool", True),
    ("num_request_iterations_for_warmup", "int32", 0),
    ("version", "bool", False),
    ("monitoring_config_file", "string", ""),
    ("remove_unused_fields_from_bundle_metagraph", "bool", True),
    ("prefer_tflite_model", "bool", False),
    ("num_tflite_pools", "int32", None),
    ("num_tflite_interpreters_per_pool", "int32", 1),
    ("enable_signature_method_name_check", "bool", False),
    ("xla_cpu_compilation_enabled", "bool", False),
    ("xla_gpu_compilation_enabled", "bool", False),
    ("enable_profiler", "bool", True),
    ("thread_pool_factory_config_file", "string", ""),
    ("mixed_precision", "string", ""),
    ("skip_initialize_tpu", "bool", False),
    ("enable_grpc_healthcheck_service", "bool", False),
    ("enable_serialization_as_tensor_content", "bool", False),
]


def test_the_48_flags() -> None:
    ours = list(FLAGS.values())[:REFERENCE_FLAGS]
    assert [(flag.name, flag.kind) for flag in ours] == [(name, kind) for name, kind, _ in REFERENCE]
    for flag, (_, _, default) in zip(ours, REFERENCE, strict=True):
        if default is not None:
            assert (flag.default, type(flag.default)) == (default, type(default)), flag.name


def test_every_flag_has_a_group_a_text_and_a_fitting_default() -> None:
    python = {"bool": bool, "int32": int, "int64": int, "float": float, "string": str}
    for flag in FLAGS.values():
        assert flag.group in GROUPS
        assert flag.help.endswith(".")
        assert type(flag.default) is python[flag.kind], flag.name
        assert not flag.choices or flag.default in flag.choices


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--port=1"], {"port": 1}),
        (["--port", "1"], {"port": 1}),
        (["--port=1", "--port=2"], {"port": 2}),
        (["--file_system_poll_wait_seconds=-1"], {"file_system_poll_wait_seconds": -1}),
        (["--file_system_poll_wait_seconds", "-1"], {"file_system_poll_wait_seconds": -1}),
        (["--model_name="], {"model_name": ""}),
        (["--model_name=a=b"], {"model_name": "a=b"}),
        (
            ["--model_base_path", "/m", "--enable_batching"],
            {"model_base_path": "/m", "enable_batching": True},
        ),
        (["--enable_batching=TRUE"], {"enable_batching": True}),
        (["--enable_batching=0"], {"enable_batching": False}),
        (["--enable_batching", "false", "--port=1"], {"enable_batching": False, "port": 1}),
        (["--per_process_gpu_memory_fraction=.5"], {"per_process_gpu_memory_fraction": 0.5}),
        (["--load_retry_interval_micros=99999999999"], {"load_retry_interval_micros": 99999999999}),
        (["--port= 9"], {"port": 9}),
    ],
)
def test_values(arguments: list[str], values: dict[str, Any]) -> None:
    parsed = parse(arguments)
    assert (parsed.values, parsed.unknown, parsed.errors) == (values, [], [])


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["--Port=1"], ["--Port=1"]),
        (["--model-name=q"], ["--model-name=q"]),
        (["-port=1"], ["-port=1"]),
        (["--port"], ["--port"]),
        (["--max_num_load_retries", "--port=1"], ["--max_num_load_retries"]),
        (["stray"], ["stray"]),
        (["--enable_batching", "maybe"], ["maybe"]),
        (["--", "--port=1", "x"], ["--port=1", "x"]),
        (["--no_such", "5"], ["--no_such", "5"]),
    ],
)
def test_unknown_arguments(arguments: list[str], unknown: list[str]) -> None:
    parsed = parse(arguments)
    assert (parsed.unknown, parsed.errors) == (unknown, [])


@pytest.mark.parametrize(
    "argument",
    [
        "--enable_batching=",
        "--enable_batching=t",
        "--enable_batching=yes",
        "--port=",
        "--port=abc",
        "--port=1.5",
        "--port=1x",
        "--port=1_000",
        "--port=2147483648",
        "--port=-2147483649",
        "--load_retry_interval_micros=9223372036854775808",
        "--load_retry_interval_micros=" + "9" * 5000,
        "--per_process_gpu_memory_fraction=half",
        "--per_process_gpu_memory_fraction=nan",
        "--grpc_transport=other",
        "--max_runners=-1",
        "--grpc_max_message_bytes=-2",
        "--shutdown_grace_seconds=-.5",
    ],
)
def test_bad_values(argument: str) -> None:
    parsed = parse([argument])
    name, _, value = argument.partition("=")
    assert parsed.values == {}
    assert len(parsed.errors) == 1
    assert parsed.errors[0].startswith(f"{name}: expected ")
    assert parsed.errors[0].endswith(f"got '{value}'")


def test_integer_limits_are_values() -> None:
    assert convert(FLAGS["port"], "2147483647") == 2147483647
    assert convert(FLAGS["load_retry_interval_micros"], "-9223372036854775808") == -(2**63)


@pytest.mark.parametrize(
    ("name", "meant"), [("prot", "port"), ("model-name", "model_name"), ("zzzzzz", None)]
)
def test_nearest(name: str, meant: str | None) -> None:
    assert nearest(name) == meant


def test_usage_names_every_flag() -> None:
    text = usage("x")
    assert text.startswith("usage: x ")
    assert [name for name in FLAGS if f"  --{name}=" not in text] == []


class Served(list[Settings]):
    """Settings that the fake server was started with, and what it does."""

    status: int = 0
    error: Exception | None = None


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Stands in for tfs.server."""
    calls = Served()
    fake = ModuleType("tfs.server")

    def main(settings: Settings) -> int:
        calls.append(settings)
        if calls.error is not None:
            raise calls.error
        return calls.status

    fake.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tfs.server", fake)
    return calls


def test_serve_runs_the_server(served: Served) -> None:
    served.status = 7
    assert cli.main(["serve", "--model_base_path", "/m", "--port=1"]) == 7
    assert (served[0].model_base_path, served[0].port, served[0].model_name) == ("/m", 1, "default")


def test_serve_is_strict(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--prot=1", "stray", "--port", "--max_runners=x"]) == 2
    out, err = capsys.readouterr()
    assert (served, out) == ([], "")
    assert err.splitlines() == [
        "tfs serve: unknown flag --prot; did you mean --port?",
        "tfs serve: unexpected argument 'stray'; flags are written --name=value",
        "tfs serve: --port needs a value: --port=int32",
        "tfs serve: --max_runners: expected a 32-bit integer, got 'x'",
    ]


def test_drop_in_only_mentions_unknown_arguments(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.tensorflow_model_server(["--Model_Name=q", "--model_name=m"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("unknown argument: --Model_Name=q\nusage: tensorflow_model_server")
    assert served[0].model_name == "m"


def test_drop_in_ends_on_a_bad_value(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.tensorflow_model_server(["--port=abc"]) == 255
    out, err = capsys.readouterr()
    assert out.startswith("usage: tensorflow_model_server")
    assert err == "--port: expected a 32-bit integer, got 'abc'\n"
    assert served == []


def test_help(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.tensorflow_model_server(["--help"]) == 255
    assert cli.main(["serve", "--help"]) == 0
    assert cli.main(["--help"]) == 0
    assert "usage: tfs COMMAND" in capsys.readouterr().out
    assert served == []


@pytest.mark.parametrize("arguments", [[], ["dance"]])
def test_without_a_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "serve" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["--version", "--version=true"])
def test_version(served: Served, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.tensorflow_model_server([version]) == 0
    ours, library = capsys.readouterr().out.splitlines()
    assert ours.startswith("TensorFlow ModelServer: ")
    assert library.startswith("TensorFlow Library: ")
    assert served == []


@pytest.mark.parametrize(
    ("error", "text"),
    [(InvalidArgument("no"), "INVALID_ARGUMENT: no"), (NotFound("/m; gone"), "NOT_FOUND: /m; gone")],
)
def test_failed_start(
    served: Served, error: Exception, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served.error = error
    assert cli.tensorflow_model_server(["--model_base_path=/m"]) == 255
    assert capsys.readouterr().out == f"Failed to start server. Error: {text}\n"


def test_start_of_a_light_installation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tfs.server", None)
    assert cli.main(["serve", "--model_base_path=/m"]) == 255
    out = capsys.readouterr().out
    assert out.startswith(
        "Failed to start server. Error: FAILED_PRECONDITION: not all of the server is installed: "
    )
    assert "tfs.server" in out
    assert "pip install 'tfs[cpu]'" in out
    assert out.count("\n") == 1


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_module_and_closed_pipe() -> None:
    done = run("-m", "tfs", "serve", "--prot=1")
    assert (done.returncode, done.stdout) == (2, "")
    source = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); from tfs import cli; sys.exit(cli.main(['serve', '--help']))"
    done = run("-c", source)
    assert (done.returncode, done.stderr) == (0, "")


def test_light_start() -> None:
    """Neither protobuf nor a network library is imported to read a command line."""
    source = (
        "import sys; from tfs import cli; from tfs.command_line import parse; from tfs.config import Settings\n"
        "settings = Settings(**parse(['--model_base_path=/m', '--enable_batching']).values)\n"
        "settings.check(); settings.loading_options(); settings.monitoring()\n"
        "print([name for name in ('google.protobuf', 'grpc', 'uvicorn', 'asyncio', 'tensorflow', 'numpy') if name in sys.modules])"
    )
    assert run("-c", source).stdout.strip() == "[]"


def test_flags_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Flags().port = 1  # type: ignore[misc]
