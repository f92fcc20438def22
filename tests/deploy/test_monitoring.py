"""The Grafana dashboard and the Prometheus rules ask for nothing that a running server does not have: metrics and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from support import Server

from tfs.client import Client

DEPLOY = Path(__file__).parents[2] / "deploy"
# What Prometheus itself adds to every series, and the time series it makes.
SCRAPED = {"job", "instance", "le", "up"}
NAME = re.compile(r"(?<![\w:$\"])((?::|[a-zA-Z_])[\w:]*)(?![\w(:])")
LABELS = re.compile(r"by \(([^)]*)\)|\{([^}]*)\}")
WORDS = {"sum", "by"}


def expressions() -> dict[str, str]:
    """Where it is written -> the expression in PromQL."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    for panel in json.loads((DEPLOY / "grafana" / "tfs.json").read_text())["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def metrics_of(expression: str) -> set[str]:
    """The metric names in an expression: names outside of labels that are no functions."""
    plain = LABELS.sub(" ", expression)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    return {name for name in NAME.findall(plain) if name not in WORDS}


def labels_of(expression: str) -> set[str]:
    found: set[str] = set()
    for grouped, chosen in LABELS.findall(expression):
        found |= {name.strip() for name in grouped.split(",") if name.strip()}
        found |= set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", chosen))
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[str]:
    """/metrics of a batching server that has answered, refused and failed to load."""
    base = tmp_path_factory.mktemp("monitoring")
    flags = ["--model_name=half_plus_two", f"--model_base_path={models}/half_plus_two", "--enable_batching"]
    server = Server(base, flags, None).wait_ready()
    try:
        with Client(server.target, retries=0) as client:
            client.predict("half_plus_two", {"x": [1.0]}, timeout=20)
        requests.get(f"{server.url}/v1/models/half_plus_two", timeout=20)
        yield requests.get(f"{server.url}/metrics", timeout=20).text
    finally:
        server.stop()


def series(page: str) -> dict[str, set[str]]:
    """Name of a series -> its labels, from the page's sample lines."""
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', line))
    return found


@pytest.mark.parametrize("where", expressions())
def test_metrics_and_labels_exist(where: str, page: str) -> None:
    expression, known = expressions()[where], series(page)
    names = metrics_of(expression) - SCRAPED
    assert names or "up{" in expression, f"no metric found in {expression}"
    assert names <= set(known), f"not at /metrics: {names - set(known)}"
    labels = {label for name in names for label in known[name]} | SCRAPED
    assert labels_of(expression) <= labels


def test_rules_have_what_prometheus_wants() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert set(rules) == {"groups"}
    for group in rules["groups"]:
        assert set(group) == {"name", "rules"}
        names = [rule["alert"] for rule in group["rules"]]
        assert len(names) == len(set(names))
        for rule in group["rules"]:
            assert {"alert", "expr", "labels", "annotations"} <= set(rule) <= {
                "alert", "expr", "for", "labels", "annotations",
            }  # fmt: skip
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert "summary" in rule["annotations"]
            assert rule["expr"].count("(") == rule["expr"].count(")")


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads((DEPLOY / "grafana" / "tfs.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)
