"""A walk through versions, labels and configuration files with a spam filter that takes raw text.

    python -m examples.spam.run [--work=DIRECTORY]

Each step prints what it does and what the server says; the README tells the same story.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.serving import Server, serving
from tfs.client import All, Client, Latest, ModelConfig, RestClient, TfsError

MAILS = ["FREE PRIZE CLAIM NOW", "see you at the meeting", "earn cash fast from home"]


def step(text: str) -> None:
    print(f"\n== {text}", flush=True)


def verdicts(client: Client | RestClient, **choice: object) -> list[str]:
    found = client.predict("spam", {"text": MAILS}, output_filter=["verdict"], **choice)  # type: ignore[arg-type]
    return [verdict.decode() for verdict in found["verdict"]]


def config_text(base: Path, labels: str = "") -> str:
    """A model configuration file with two models."""
    return f"""model_config_list {{
  config {{
    name: "spam"
    base_path: "{base}/spam"
    model_platform: "tensorflow"
    model_version_policy {{ all {{ }} }}
    {labels}
  }}
  config {{ name: "words" base_path: "{base}/words" model_platform: "tensorflow" }}
}}
"""


def wrong_base_path(base: Path) -> None:
    step("A base path that points at a version instead of the directory above it")
    server = Server(
        ["--model_name=spam", f"--model_base_path={base}/spam/1", "--max_num_load_retries=0"],
        "http",
    )
    try:
        print(server.wait_log("No versions of servable spam found"))
    finally:
        server.process.terminate()
        server.process.wait(60)


def default_is_latest(base: Path) -> None:
    step("By default the highest version is served, and only it")
    with (
        serving("--model_name=spam", f"--model_base_path={base}/spam") as server,
        Client(server.grpc) as client,
    ):
        print([(one.version, one.state.name) for one in client.status("spam")], verdicts(client))
        try:
            verdicts(client, version=1)
        except TfsError as error:
            print(f"version 1: {error.status_text}")


def labels(base: Path, work: Path) -> None:
    step("model.config with all versions and two models; labels for a version that is not loaded are refused")
    config = work / "model.config"
    config.write_text(
        config_text(
            base, 'version_labels { key: "production" value: 2 } version_labels { key: "beta" value: 7 }'
        )
    )
    started = Server([f"--model_config_file={config}"], "http")
    print(started.wait_log("Request to assign label to version 7 of model spam"))
    started.process.wait(60)

    step("Without labels it starts; labels come by a reload, once their versions are available")
    config.write_text(config_text(base))
    with (
        serving(f"--model_config_file={config}") as server,
        Client(server.grpc) as client,
        RestClient(server.rest) as rest,
    ):
        for version in (1, 2, 3):
            server.wait_log(f"Successfully loaded servable version {{name: spam version: {version}}}")
        client.reload(
            [
                ModelConfig("spam", f"{base}/spam", All(), {"production": 2, "beta": 3}),
                ModelConfig("words", f"{base}/words", Latest()),
            ]
        )
        print("production:", verdicts(client, label="production"))
        print("beta:      ", verdicts(rest, label="beta"))
        print("words:     ", client.predict("words", {"text": MAILS})["words"].tolist())

        step("A/B by URL: two versions side by side")
        for version in (1, 3):
            print(f"/v1/models/spam/versions/{version}:predict", verdicts(rest, version=version))


def batching(base: Path, work: Path) -> None:
    step("Batching parameters: what arrives within 5 ms runs together")
    parameters = work / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 32 }\nbatch_timeout_micros { value: 5000 }\nmax_enqueued_batches { value: 100 }\n"
        "num_batch_threads { value: 2 }\n"
    )
    flags = ["--enable_batching", f"--batching_parameters_file={parameters}"]
    with (
        serving("--model_name=spam", f"--model_base_path={base}/spam", *flags) as server,
        Client(server.grpc) as client,
    ):
        print(verdicts(client))


def main() -> None:
    parser = argparse.ArgumentParser(description="Versions, labels and configuration files.")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-spam")
    work = parser.parse_args().work.absolute()
    base = work / "models"
    base.mkdir(parents=True, exist_ok=True)
    if not (base / "words").exists():
        subprocess.run([sys.executable, "-m", "examples.spam.make_models", str(base)], check=True)
    wrong_base_path(base)
    default_is_latest(base)
    labels(base, work)
    batching(base, work)


if __name__ == "__main__":
    main()
