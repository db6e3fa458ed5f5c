"""Each trap of a platform is found in a manifest that has it, on its line, and nothing else is.

The manifests are those of `narthex deploy render`, with one thing changed.
"""

# ruff: noqa: E501 - the table of traps reads in rows
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from narthex.deploy.rendering import DeploymentTarget
from narthex.errors import ClientError, ConfigError
from tests.deploy.manifests import verdict, written


class Trap(NamedTuple):
    """A change of one rendered file: `old` becomes `new`, and `code` is found on the line of `marker` (or `new`)."""

    platform: str
    file: str
    old: str
    new: str
    code: str
    marker: str = ""
    severity: str = "error"


CLOUD_RUN, KUBERNETES, TERRAFORM = "service.yaml", "deployment.yaml", "service.tf"
TRAPS = [
    Trap("cloud-run", CLOUD_RUN, "timeoutSeconds: 3600", "timeoutSeconds: 300", "request_timeout"),
    Trap("cloud-run", CLOUD_RUN, "      timeoutSeconds: 3600\n", "", "request_timeout", "    spec:\n      serviceAccount"),
    Trap("cloud-run", CLOUD_RUN, "timeoutSeconds: 3600", "timeoutSeconds: 3600\n      timeoutSeconds: 3600", "overridden",
         "timeoutSeconds: 3600\n      containerConcurrency", "warning"),
    Trap("cloud-run", CLOUD_RUN, "containerConcurrency: 1000", "containerConcurrency: 2000", "concurrency"),
    Trap("cloud-run", CLOUD_RUN, "      containerConcurrency: 1000\n", "", "concurrency", "    spec:\n      serviceAccount",
         "warning"),
    Trap("cloud-run", CLOUD_RUN, 'value: "20000"', 'value: "500"', "concurrency", "containerConcurrency"),
    Trap("cloud-run", CLOUD_RUN, 'cpu-throttling: "false"', 'cpu-throttling: "true"', "cpu_throttled"),
    Trap("cloud-run", CLOUD_RUN, "name: http1", "name: h2c", "http2_end_to_end"),
    Trap("cloud-run", CLOUD_RUN, "memory: 512Mi", "memory: 128Mi", "memory"),
    Trap("cloud-run", CLOUD_RUN, 'S\n              value: "10"', 'S\n              value: "30"', "grace",
         "    spec:\n      serviceAccount"),
    Trap("cloud-run", CLOUD_RUN, "execution-environment: gen2", "sessionAffinity: 'true'", "affinity", "", "warning"),
    Trap("cloud-run", CLOUD_RUN, "path: /livez", "path: /readyz", "liveness", "path: /readyz\n            periodSeconds: 10"),
    Trap("cloud-run", CLOUD_RUN, "NARTHEX_STORE_URL", "NARTHEX_JWT_SECRET", "embedded_engines", "maxScale"),
    Trap("cloud-run", CLOUD_RUN, 'value: "production"', 'value: "produktion"', "settings"),
    Trap("cloud-run", CLOUD_RUN, "NARTHEX_DRAIN_GRACE_S", "NARTHEX_DRIAN_GRACE_S", "settings", 'value: "10"'),
    Trap("cloud-run", CLOUD_RUN, '- name: NARTHEX_DRAIN_GRACE_S\n              value: "10"',
         '- name: E2E_TESTING\n              value: "1"', "settings", 'value: "1"'),
    Trap("terraform", TERRAFORM, '"3600s"', '"300s"', "request_timeout"),
    Trap("terraform", TERRAFORM, "cpu_idle = false", "cpu_idle = true", "cpu_throttled"),
    Trap("terraform", TERRAFORM, '= "http1"', '= "h2c"', "http2_end_to_end"),
    Trap("terraform", TERRAFORM, '"512Mi"', '"100Mi"', "memory"),
    Trap("terraform", TERRAFORM, "concurrency = 1000", "concurrency = 1001", "concurrency"),
    Trap("terraform", "load_balancer.tf", 'load_balancing_scheme = "EXTERNAL_MANAGED"\n  security',
         'timeout_sec = 3600\n  load_balancing_scheme = "EXTERNAL_MANAGED"\n  security', "backend_timeout_refused", "timeout_sec = 3600\n  load"),
    Trap("terraform", "load_balancer.tf", '"SERVERLESS"', '"GCE_VM_IP_PORT"', "backend_timeout",
         'resource "google_compute_backend_service" "narthex"'),
    Trap("alb", "load-balancer.sh", "create narthex \\\n  --global \\\n  --load", "create narthex --timeout=3600s --global \\\n  --load",
         "backend_timeout_refused", "--timeout=3600s --global"),
    Trap("alb", "load-balancer.sh", "create narthex \\\n  --global \\\n  --load",
         "create narthex --protocol=HTTP --global \\\n  --load", "backend_timeout", "--protocol=HTTP"),
    Trap("aws", CLOUD_RUN, 'idle_timeout.timeout_seconds, Value: "60"', 'idle_timeout.timeout_seconds, Value: "20"', "idle_timeout"),
    Trap("aws", CLOUD_RUN, 'idle_timeout.timeout_seconds, Value: "60"', 'idle_timeout.timeout_seconds, Value: "3600"', "keep_alive", "", "warning"),
    Trap("aws", CLOUD_RUN, '        - {Key: idle_timeout.timeout_seconds, Value: "60"}\n', "", "", ""),
    Trap("aws", CLOUD_RUN, 'deregistration_delay.timeout_seconds, Value: "15"', 'deregistration_delay.timeout_seconds, Value: "300"',
         "removal_delay", "", "warning"),
    Trap("aws", CLOUD_RUN, '        - {Key: deregistration_delay.timeout_seconds, Value: "15"}\n', "", "removal_delay",
         "    Properties:\n      VpcId: !Ref Vpc\n      TargetType", "warning"),
    Trap("aws", CLOUD_RUN, "ProtocolVersion: HTTP1", "ProtocolVersion: HTTP2", "http2_end_to_end"),
    Trap("aws", CLOUD_RUN, "load_balancing.algorithm.type, Value: round_robin", 'stickiness.enabled, Value: "true"',
         "affinity", "", "warning"),
    Trap("aws", CLOUD_RUN, "HealthCheckPath: /livez", "HealthCheckPath: /readyz", "liveness"),
    Trap("aws", CLOUD_RUN, "StopTimeout: 15", "StopTimeout: 5", "grace"),
    Trap("aws", CLOUD_RUN, "          StopTimeout: 15\n", "", "", ""),
    Trap("aws", CLOUD_RUN, 'Memory: "2048"', 'Memory: "256"', "memory"),
    Trap("aws", CLOUD_RUN, "SoftLimit: 65536", "SoftLimit: 1024", "open_files"),
    Trap("aws", CLOUD_RUN, "NARTHEX_STORE_URL", "NARTHEX_JWT_SECRET", "embedded_engines", "MaxCapacity"),
    Trap("aws", CLOUD_RUN, 'TRUSTED_PROXIES\n              Value: "1"', 'LOG_LEVEL\n              Value: "info"',
         "proxies_not_trusted", "    Properties:\n      Family", "warning"),
    Trap("kubernetes", KUBERNETES, "GracePeriodSeconds: 20", "GracePeriodSeconds: 12", "grace"),
    Trap("kubernetes", KUBERNETES, "      terminationGracePeriodSeconds: 20\n", "", "", ""),
    Trap("kubernetes", KUBERNETES, "seconds: 5", "seconds: 15", "grace", "terminationGracePeriodSeconds"),
    Trap("kubernetes", KUBERNETES, "limits:\n              memory: 512Mi", "limits:\n              memory: 256Mi", "memory",
         "memory: 256Mi"),
    Trap("kubernetes", KUBERNETES, "{path: /livez, port: http}\n            periodSeconds: 10",
         "{path: /ws/health, port: http}\n            periodSeconds: 10", "liveness", "path: /ws/health"),
    Trap("kubernetes", KUBERNETES, "NARTHEX_BROKER_URL", "NARTHEX_JWT_SECRET", "embedded_engines", "maxReplicas"),
    Trap("kubernetes", KUBERNETES, 'TRUSTED_PROXIES\n              value: "1"', 'LOG_LEVEL\n              value: "info"',
         "proxies_not_trusted", "    spec:\n      # preStop", "warning"),
    Trap("kubernetes", KUBERNETES, 'ENVIRONMENT\n              value: "production"',
         'ENVIRONMENT\n              value: "staging"\n            - name: ENVIRONMENT\n              value: "production"',
         "overridden", 'value: "production"'),
    Trap("kubernetes", "ingress.yaml", 'read-timeout: "3600"', 'read-timeout: "30"', "idle_timeout"),
    Trap("kubernetes", "ingress.yaml", 'proxy-buffering: "off"', 'backend-protocol: "GRPC"', "http2_end_to_end"),
    Trap("kubernetes", "ingress.yaml", 'proxy-buffering: "off"', 'affinity: "cookie"', "affinity", "", "warning"),
    Trap("kubernetes", "service.yaml", "selector: *labels", "sessionAffinity: ClientIP\n  selector: *labels", "affinity",
         "sessionAffinity: ClientIP", "warning"),
    Trap("kubernetes", KUBERNETES, "  strategy:\n", "  replicas: 3\n  strategy:\n", "count_reset", "replicas: 3", "warning"),
    Trap("kubernetes", "autoscaler.yaml", "    name: narthex\n  minReplicas", "    name: other\n  minReplicas", "", ""),
    Trap("aws", CLOUD_RUN, "      LaunchType: FARGATE\n", "      LaunchType: FARGATE\n      DesiredCount: 3\n", "count_reset",
         "DesiredCount: 3", "warning"),
    Trap("aws", CLOUD_RUN, "      LaunchType: FARGATE\n", "      LaunchType: FARGATE\n      DesiredCount: !Ref Count\n",
         "count_reset", "DesiredCount: !Ref", "warning"),
    Trap("aws", CLOUD_RUN, "      LaunchType: FARGATE\n",
         "      LaunchType: FARGATE\n      DesiredCount: !If [Scaled, !Ref AWS::NoValue, 2]\n", "", ""),
    Trap("compose", "compose.yaml", "grace_period: 15s", "grace_period: 5s", "grace"),
    Trap("compose", "compose.yaml", "    stop_grace_period: 15s\n", "", "", ""),
    Trap("compose", "compose.yaml", "hard: 65536}", "hard: 1024}", "open_files"),
    Trap("compose", "compose.yaml", "memory: 512M", "memory: 256m", "memory"),
    Trap("compose", "compose.yaml", "    deploy:\n", "    deploy:\n      replicas: 3\n", "embedded_engines", "replicas"),
    Trap("compose", "compose.yaml", "NARTHEX_ADMIN_KEY_FILE: /run/secrets/admin-key", "NARTHEX_ADMIN_KEY: hunter2hunter2hunter2",
         "secret_inline"),
    Trap("systemd", "narthex.service", "TimeoutStopSec=15", "TimeoutStopSec=5s", "grace"),
    Trap("systemd", "narthex.service", "LimitNOFILE=65536", "LimitNOFILE=4096", "open_files"),
    Trap("systemd", "narthex.service", "LimitNOFILE=65536", "LimitNOFILE=65536\nLimitNOFILE=65535", "overridden",
         "LimitNOFILE=65535"),
    Trap("systemd", "narthex.service", "MemoryMax=512M", "MemoryMax=300M", "memory"),
    Trap("systemd", "narthex.service", " serve\n", " serve --workers 4\n", "memory", "MemoryMax"),
    Trap("nginx", "narthex.conf", "proxy_read_timeout 3600s", "proxy_read_timeout 30s", "idle_timeout"),
    Trap("nginx", "narthex.conf", "        proxy_set_header Upgrade $http_upgrade;\n", "", "upgrade_not_passed", "    location /"),
    Trap("nginx", "narthex.conf", "        proxy_http_version 1.1;\n", "", "upgrade_not_passed", "    location /"),
    Trap("nginx", "narthex.conf", "keepalive 32;", "ip_hash;", "affinity", "", "warning"),
    Trap("nginx", "narthex.conf", "proxy_set_header Host $http_host;", "proxy_set_header Upgrade '';\n        proxy_set_header Host $http_host;",
         "overridden", "proxy_set_header Upgrade ''"),
    Trap("haproxy", "haproxy.cfg", "    timeout tunnel 3600s\n", "", "", ""),
    Trap("haproxy", "haproxy.cfg", "timeout tunnel 3600s", "timeout tunnel 20s", "idle_timeout"),
    Trap("haproxy", "haproxy.cfg", "balance leastconn", "balance source", "affinity", "", "warning"),
    Trap("haproxy", "haproxy.cfg", "server narthex-1 127.0.0.1:8000", "server narthex-1 127.0.0.1:8000 proto h2", "http2_end_to_end"),
    Trap("caddy", "Caddyfile", "flush_interval -1", "stream_timeout 30s", "backend_timeout"),
    Trap("caddy", "Caddyfile", "versions 1.1", "versions h2c 2", "http2_end_to_end"),
    Trap("caddy", "Caddyfile", "flush_interval -1", "lb_policy ip_hash", "affinity", "", "warning"),
    Trap("envoy", "envoy.yaml", "stream_idle_timeout: 3600s", "stream_idle_timeout: 10s", "idle_timeout"),
    Trap("envoy", "envoy.yaml", "- upgrade_type: websocket", "- upgrade_type: CONNECT", "upgrade_not_passed",
         "route:\n                            cluster: narthex"),
    Trap("envoy", "envoy.yaml", "lb_policy: LEAST_REQUEST", "lb_policy: RING_HASH", "affinity", "", "warning"),
    Trap("traefik", "dynamic.yaml", "url: http://", "url: h2c://", "http2_end_to_end"),
    Trap("traefik", "dynamic.yaml", "passHostHeader: true", "sticky: {cookie: {}}", "affinity", "", "warning"),
]  # fmt: skip


@pytest.mark.parametrize(
    "trap", TRAPS, ids=lambda trap: f"{trap.platform}-{trap.code or 'none'}-{trap.new[:20]!r}"
)
def test_a_trap_is_found_on_its_line(trap: Trap, tmp_path: Path) -> None:
    """One change of a good manifest gives its finding; an empty code: the platform's default is good enough."""
    files = written(tmp_path, trap.platform)
    path = files[trap.file]
    text = path.read_text()
    assert trap.old in text
    changed = text.replace(trap.old, trap.new, 1)
    path.write_text(changed)
    found = verdict(trap.platform, *files.values()).findings
    if not trap.code:
        assert found == []
        return
    assert {finding.code for finding in found} == {trap.code}
    assert found[0].severity == trap.severity
    marker = trap.marker or trap.new
    if marker in changed:
        assert found[0].place.line == 1 + changed[: changed.index(marker)].count("\n")


def test_a_later_flag_of_gcloud_overrides_an_earlier_one(tmp_path: Path) -> None:
    """The incident: `--timeout 3600` and, further down, `--timeout 300`: sockets lived for five minutes."""
    script = tmp_path / "deploy.sh"
    script.write_text(
        "#!/bin/sh\n"
        "gcloud run deploy chat --image $IMAGE \\\n"
        "  --timeout 3600 --concurrency 1000 --no-cpu-throttling --max-instances 4 \\\n"
        "  --set-env-vars ENVIRONMENT=staging \\\n"
        "  --set-secrets NARTHEX_BROKER_URL=b:latest,NARTHEX_STORE_URL=s:latest \\\n"
        "  --timeout=300\n"
    )
    found = {finding.code: finding for finding in verdict("cloud-run", script).findings}
    assert set(found) == {"overridden", "request_timeout"}
    assert found["overridden"].place.line == 6
    assert "'3600' on line 3, then '300'" in found["overridden"].message
    assert found["request_timeout"].place.line == 6


def test_commands_in_workflows_and_cloud_build_files_are_found(tmp_path: Path) -> None:
    """A pipeline is where the flags of a deploy stand."""
    workflow = tmp_path / "deploy.yml"
    workflow.write_text(
        "jobs:\n  deploy:\n    steps:\n      - name: deploy\n        run: |\n          set -e\n"
        "          gcloud run deploy chat --image x --use-http2 --update-env-vars A=b\n"
    )
    build = tmp_path / "cloudbuild.yaml"
    build.write_text(
        "steps:\n  - name: cloud-sdk\n    entrypoint: gcloud\n    args: [run, deploy, chat, --cpu-throttling]\n"
    )
    found = verdict("cloud-run", workflow, build).findings
    at = {(finding.code, Path(finding.place.file).name, finding.place.line) for finding in found}
    assert ("http2_end_to_end", "deploy.yml", 7) in at
    assert ("cpu_throttled", "cloudbuild.yaml", 4) in at
    assert ("request_timeout", "deploy.yml", 7) in at


def test_an_autoscaler_on_cpu_is_a_warning(tmp_path: Path) -> None:
    """Idle sockets cost no CPU."""
    files = written(tmp_path, "kubernetes")
    path = files["autoscaler.yaml"]
    head, _, _ = path.read_text().partition("  metrics:\n")
    path.write_text(head + "  metrics:\n    - type: Resource\n      resource: {name: cpu}\n")
    text = "---\n".join(file.read_text() for file in files.values())
    together = tmp_path / "all.yaml"
    together.write_text(text)
    assert [finding.code for finding in verdict("kubernetes", together).findings] == ["scaled_by_cpu"]


COUNTED = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat}
spec:
  replicas: 4
  template:
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: narthex
          env:
            - {name: ENVIRONMENT, value: staging}
            - {name: NARTHEX_TRUSTED_PROXIES, value: "1"}
            - {name: NARTHEX_BROKER_URL, valueFrom: {secretKeyRef: {name: chat, key: broker}}}
            - {name: NARTHEX_STORE_URL, valueFrom: {secretKeyRef: {name: chat, key: store}}}
"""
SCALERS = {
    "HorizontalPodAutoscaler": "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: sockets}\n"
    "spec:\n  scaleTargetRef: {name: chat}\n  maxReplicas: 9\n  metrics:\n    - type: Pods\n"
    "      pods: {metric: {name: narthex_connections_active}}\n",
    "ScaledObject": "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: sockets}\n"
    "spec:\n  scaleTargetRef: {name: chat}\n  maxReplicaCount: 9\n  triggers:\n    - type: prometheus\n",
}


@pytest.mark.parametrize("kind", SCALERS)
def test_an_apply_that_resets_the_autoscaler_s_number_is_a_warning(kind: str, tmp_path: Path) -> None:
    """Each `kubectl apply` of `replicas` ends the pods that the autoscaler added, also where it is in another file."""
    (tmp_path / "deployment.yaml").write_text(COUNTED)
    scaler = tmp_path / "scaler.yaml"
    scaler.write_text(SCALERS[kind])
    (finding,) = verdict("kubernetes", tmp_path).findings
    assert (finding.code, finding.severity, finding.place.line) == ("count_reset", "warning", 5)
    assert f"replicas: 4 is set, and the {kind} sockets sets the number" in finding.message
    assert "edit-last-applied deployment/chat" in finding.remedy
    for old, new in (("{name: chat}", "{name: worker}"), (": 9", ": 4")):  # of another; one that can add none
        scaler.write_text(SCALERS[kind].replace(old, new))
        assert verdict("kubernetes", tmp_path).findings == []


def test_the_autoscaler_of_another_service_of_the_stack_resets_nothing(tmp_path: Path) -> None:
    """Each ECS service has its own task, count and autoscaler: those of a worker say nothing about the gateway."""
    path = written(tmp_path, "aws")["service.yaml"]
    text = path.read_text()
    worker = (
        "  Computing:\n    Type: AWS::ECS::TaskDefinition\n    Properties:\n      ContainerDefinitions:\n"
        "        - Name: worker\n          StopTimeout: 120\n          Environment:\n"
        "            - {Name: ENVIRONMENT, Value: staging}\n            - {Name: NARTHEX_TRUSTED_PROXIES, Value: '1'}\n"
        "  Worker:\n    Type: AWS::ECS::Service\n    Properties:\n      TaskDefinition: !Ref Computing\n"
        "      ServiceName: workers\n      DesiredCount: 1\n"
    )
    path.write_text(text.replace("Resources:\n", f"Resources:\n{worker}"))
    found = verdict("aws", path).findings
    assert {(one.code, one.severity) for one in found} == {
        ("embedded_engines", "warning")
    }  # the worker's own task
    path.write_text(
        path.read_text().replace("ServiceName: narthex", "ServiceName: narthex\n      DesiredCount: 2")
    )
    (reset,) = [one for one in verdict("aws", path).findings if one.code == "count_reset"]
    assert "DesiredCount: 2 is set, and the ScalableTarget Scaling" in reset.message
    by_name = path.read_text().replace("${Service.Name}", "workers")
    path.write_text(by_name)
    (reset,) = [one for one in verdict("aws", path).findings if one.code == "count_reset"]
    assert "DesiredCount: 1 is set" in reset.message


def test_one_instance_on_cloud_run_keeps_nothing(tmp_path: Path) -> None:
    """Cloud Run's files are memory: one instance with SQLite is allowed, and warned about."""
    files = written(tmp_path, "cloud-run", target=DeploymentTarget(max_instances=1))
    (finding,) = verdict("cloud-run", *files.values()).findings
    assert (finding.code, finding.severity) == ("embedded_engines", "warning")


@pytest.mark.parametrize(
    "url",
    [
        "!Sub https://${Domain}",
        "!ImportValue public-url",
        "!Join ['', ['https://', !Ref Domain]]",
        "{Ref: PublicUrl}",
        '{"Fn::Sub": "https://${Domain}"}',
        "!GetAtt Names.Url",
    ],
)
def test_what_a_function_of_cloudformation_gives_is_not_known(url: str, tmp_path: Path) -> None:
    """A template with parameters, as AWS' own tools write it, is no error: neither their names nor defaults are judged."""
    path = written(tmp_path, "aws")["service.yaml"]
    text = path.read_text()
    for old, new in (
        ('URL\n              Value: "https://chat.example.com"', f"URL\n              Value: {url}"),
        ('HOSTS\n              Value: "chat.example.com"', "HOSTS\n              Value: !Ref Domain"),
        (
            'CONNECTIONS\n              Value: "20000"',
            "CONNECTIONS\n              Value: !Ref MaxConnections",
        ),
        ('GRACE_S\n              Value: "10"', "GRACE_S\n              Value: {Ref: Grace}"),
        ('PROXIES\n              Value: "1"', "PROXIES\n              Value: !Ref Proxies"),
        ("StopTimeout: 15", "StopTimeout: !Ref Stop"),
        ("MaximumPercent: 200", "MaximumPercent: !If [Big, 200, 150]"),
        ("MaxCapacity: 10", "MaxCapacity: {Ref: Most}"),
        ('timeout_seconds, Value: "60"', "timeout_seconds, Value: !Ref Idle"),
        ('timeout_seconds, Value: "15"', "timeout_seconds, Value: !Ref Delay"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    assert verdict("aws", path).findings == []


def test_a_disagreement_with_an_unknown_setting_is_a_warning(tmp_path: Path) -> None:
    """The memory may be enough for the number that a parameter gives; a trap that no setting changes stays an error."""
    path = written(tmp_path, "aws")["service.yaml"]
    text = path.read_text().replace(
        'CONNECTIONS\n              Value: "20000"', "CONNECTIONS\n              Value: !Ref M"
    )
    path.write_text(
        text.replace('Memory: "2048"', 'Memory: "256"').replace("Version: HTTP1", "Version: HTTP2")
    )
    found = {finding.code: finding.severity for finding in verdict("aws", path).findings}
    assert found == {"memory": "warning", "http2_end_to_end": "error"}


def test_a_setting_that_is_wrong_stays_an_error_beside_known_ones(tmp_path: Path) -> None:
    """Only values that are not in the template make findings uncertain."""
    path = written(tmp_path, "aws")["service.yaml"]
    path.write_text(path.read_text().replace('Value: "20000"', 'Value: "MaxConnections"'))
    assert [(one.code, one.severity) for one in verdict("aws", path).findings] == [("settings", "error")]


def test_one_instance_on_fargate_keeps_nothing(tmp_path: Path) -> None:
    """An update that ends the old task first loses its files as one that overlaps does."""
    files = written(tmp_path, "aws", target=DeploymentTarget(max_instances=1))
    assert "MaximumPercent: 100" in files["service.yaml"].read_text()
    (finding,) = verdict("aws", *files.values()).findings
    assert (finding.code, finding.severity) == ("embedded_engines", "warning")
    assert "begins with empty threads" in finding.consequence


def test_google_s_back_end_configuration_is_a_life(tmp_path: Path) -> None:
    """A BackendConfig without timeoutSec ends every socket after 30 s."""
    path = tmp_path / "backend.yaml"
    path.write_text(
        "apiVersion: cloud.google.com/v1\nkind: BackendConfig\nmetadata: {name: chat}\nspec: {}\n"
    )
    (finding,) = verdict("kubernetes", path).findings
    assert (finding.code, finding.place.line) == ("backend_timeout", 4)
    path.write_text(path.read_text().replace("{}", "{timeoutSec: 3600}"))
    assert verdict("kubernetes", path, environ={"NARTHEX_MAX_SOCKET_LIFE_S": "3300"}).findings == []


def test_haproxy_without_a_tunnel_time_out_uses_the_others(tmp_path: Path) -> None:
    """Then `timeout server` ends an idle socket."""
    files = written(tmp_path, "haproxy")
    path = files["haproxy.cfg"]
    text = (
        path.read_text()
        .replace("    timeout tunnel 3600s\n", "")
        .replace("timeout server 60s", "timeout server 10000")
    )
    path.write_text(text)
    (finding,) = verdict("haproxy", path).findings
    assert finding.code == "idle_timeout"
    assert finding.place.line == 1 + text[: text.index("timeout server")].count("\n")


@pytest.mark.parametrize(
    ("platform", "name", "text", "message"),
    [
        ("cloud-run", "a.yaml", "a: [1\nb: 2\n", "this is not YAML"),
        ("terraform", "a.tf", 'resource "x" {\n  a = = 1\n}\n', "this is not HCL"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(
    platform: str, name: str, text: str, message: str, tmp_path: Path
) -> None:
    """It is a configuration error with the file and the line, not a pass."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        verdict(platform, path)
    assert f"{path}:" in str(caught.value)


@pytest.mark.parametrize("platform", ["cloud-run", "kubernetes", "nginx", "systemd", "traefik"])
def test_a_file_of_something_else_is_no_pass(platform: str, tmp_path: Path) -> None:
    """A wrong --platform, or a wrong file, must not look like a good manifest."""
    path = tmp_path / "x.yaml"
    path.write_text("greeting: hello\n")
    with pytest.raises(ClientError, match=f"is a manifest of {platform}"):
        verdict(platform, path)
