"""The sub-commands without a server: output, exit statuses, one line per error, progress only on a terminal."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from client_server import Answering
from support import free_port

from tfs import cli
from tfs.commands import output, shared
from tfs.lifecycle import tfrecord
from tfs.messages import PredictionLog

RECORDED = Path(__file__).parents[2] / "conformance" / "models"
KERAS = str(RECORDED / "keras_dense")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_and_misuse(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    assert f"usage: tfs {name}" in out
    status, out, err = run(capsys, name, "--no-such-flag")
    assert (status, out) == (shared.MISUSED, "")
    assert err.startswith(f"tfs {name}: ")
    assert err.count("\n") == 1


def test_inspect_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "inspect", str(RECORDED / "keras_dense"))
    assert status == 0
    assert "serving_default   (tensorflow/serving/predict)" in out
    assert "in   features  DT_FLOAT  [?, 3]  serving_default_features:0" in out
    status, out, _ = run(capsys, "inspect", str(RECORDED / "keras_dense"), "--json", "--signature", "serve")
    found = json.loads(out)
    assert list(found["signatures"]) == ["serve"]
    assert found["signatures"]["serve"]["inputs"]["features"] == {
        "name": "serve_features:0",
        "dtype": "DT_FLOAT",
        "shape": [None, 3],
    }


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["inspect", "/no/such/path"], 1, "no such file or directory"),
        (["inspect", "host:8500"], 2, "which model"),
        (
            ["inspect", str(RECORDED / "affine"), "--signature", "z"],
            1,
            "no signature 'z'; there are: classify_y",
        ),
        (["models", str(RECORDED / "keras_dense" / "1" / "assets")], 1, "no models in"),
        (["models", "/no/such/path"], 1, "/no/such/path: No such file or directory"),
        (["models", str(RECORDED / "affine" / "1" / "saved_model.pb")], 1, "saved_model.pb"),
        (["status", "host", "m"], 1, "'host' is no server: write host:8500"),
        (["status", "host:8500"], 2, "which model of host:8500?"),
        (
            ["status", "host:8500", "m", "--timeout", "0"],
            2,
            "--timeout: expected a number above 0, at most 1e+06, got '0'",
        ),
        (
            ["status", "host:8500", "m", "--timeout", "x"],
            2,
            "--timeout: expected a number above 0, at most 1e+06, got 'x'",
        ),
        (["status", "host:8500", "m", "--timeout", "inf"], 2, "above 0, at most 1e+06, got 'inf'"),
        (["status", "host:8500", "\udcff"], 1, "text that is no UTF-8: '\\udcff'"),
        (["inspect", "http://[", "m"], 1, "a REST address is http://host:port"),
        (["status", "host:8500", "m", "--tls-cert", "c.pem"], 2, "--tls-cert and --tls-key belong together"),
        (["status", "https://host:8501", "m", "--tls-key", "k.pem"], 2, "--tls-cert and --tls-key belong"),
        (
            ["status", "https://host:8501", "m", "--tls-root", "/no/such/file"],
            1,
            "/no/such/file: No such file",
        ),
        (["status", "host:8500", "m", "--tls-root", __file__], 1, "test_commands.py holds no certificate"),
        (["models", "host:8500"], 1, "servers list their models by REST: http://host:8501"),
        (["load"], 2, "required: server, model;"),
        (["load", "host:1", "m", "--rate", "1e9"], 1, "--rate is 1e+09"),
        (["load", "host:1", "m", "--seconds", "0"], 1, "--seconds is 0"),
        (["reload", "host:1", "/no/such/file"], 1, "/no/such/file: No such file"),
        (["warmup", "make", "/no/such/path"], 1, "no SavedModel in"),
        (["warmup", "record", KERAS, "host:1", "--port", "99999"], 1, "--port is 99999: expected 0 (any) to"),
        (["warmup", "record", KERAS, "http://host:1"], 1, "this needs the gRPC port: host:8500"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, text: str
) -> None:
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (status, "")
    assert text in err
    assert err.startswith(f"tfs {arguments[0]}: ")
    assert err.count("\n") == 1


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "status", f"http://127.0.0.1:{free_port()}", "m")
    assert status == 1
    assert "UNAVAILABLE" in err


def test_a_reload_that_takes_too_long(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {}")
    server, done = Answering(), threading.Event()

    def answer(method: str, request: bytes, context: object) -> bytes:
        done.wait(20)
        return b""

    server.answer = answer
    try:
        status, _, err = run(capsys, "reload", server.target, str(config), "--timeout", "0.2")
    finally:
        done.set()
        server.server.stop(None).wait()
    assert status == 1
    assert "not all new models were available within 0.2 s; the server goes on loading" in err
    assert err.count("\n") == 1


def test_models_of_a_directory_and_of_a_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = run(capsys, "models", str(RECORDED / "affine"), "--json")
    assert status == 0
    assert [(row["model"], row["version"]) for row in json.loads(out)] == [("affine", v) for v in (1, 2, 3)]
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "mine" base_path: "{RECORDED}/keras_dense" model_platform: "tensorflow" }} }}'
    )
    status, out, _ = run(capsys, "models", str(config))
    assert out.splitlines()[1].split()[:2] == ["mine", "1"]
    config.write_text("model_config_list { wrong: 1 }")
    status, _, err = run(capsys, "models", str(config))
    assert status == 1
    assert "wrong" in err


def test_warmup_make(capsys: pytest.CaptureFixture[str], copied_model: Path) -> None:
    arguments = [
        "warmup",
        "make",
        str(copied_model),
        "--signature",
        "serving_default",
        "--rows",
        "1",
        "--rows",
        "4",
    ]
    status, _, err = run(capsys, "warmup", "make", str(copied_model), "[1, 2, 3]")
    assert status == 1
    assert "input 'features' has the shape [3]; the signature wants [?, 3]" in err
    status, _, err = run(capsys, "warmup", "make", str(copied_model), "{}")
    assert (status, "no value for the input(s) features" in err) == (1, True)
    assert run(capsys, *arguments)[0] == 0
    path = copied_model / "1" / "assets.extra" / "tf_serving_warmup_requests"
    with path.open("rb") as file:
        logs = [PredictionLog.FromString(body) for body in tfrecord.read(file)]
    inputs = [log.predict_log.request.inputs["features"] for log in logs]
    assert [[dim.size for dim in one.tensor_shape.dim] for one in inputs] == [[1, 3], [4, 3]]
    assert inputs[0].tensor_content == bytes(12)
    assert {log.predict_log.request.model_spec.signature_name for log in logs} == {"serving_default"}
    status, _, err = run(capsys, *arguments)
    assert status == 1
    assert "--force replaces it" in err
    status, out, _ = run(capsys, "warmup", "make", str(copied_model), "[[1, 2, 3]]", "--force", "--json")
    assert (status, json.loads(out)) == (0, {"path": str(path), "records": 1})
    with path.open("rb") as file:
        (log,) = (PredictionLog.FromString(body) for body in tfrecord.read(file))
    content = log.predict_log.request.inputs["features"].tensor_content
    assert np.frombuffer(content, np.float32).tolist() == [1, 2, 3]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_tables_and_json() -> None:
    text = output.table(["NAME", "N"], [["a", 1], ["long", 22]])
    assert text == "NAME   N\na      1\nlong  22"
    assert output.plain(np.array([b"a", b"\xff"], object)) == ["a", {"b64": "/w=="}]
    assert output.plain(np.array([1, 2], np.float16)) == [1, 2]
    assert output.plain(np.array([1 + 2j], np.complex64)) == [[1, 2]]


def test_colours_and_progress_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in output.table(["STATE"], [["AVAILABLE"]])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in output.table(["STATE"], [["AVAILABLE"]])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in output.table(["STATE"], [["AVAILABLE"]])
    with output.progress(1, True) as bar:
        bar.show(1, "")
    assert capsys.readouterr().err == ""


def test_a_clear_line_where_rich_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich", None)
    with output.progress(1, True) as bar:
        bar.show(1, "")
    assert capsys.readouterr().err == "no progress bar: rich is not installed (pip install 'tfs[runtime]')\n"
