"""Writes manifests: fills the templates in `templates/` with the demands of the settings.

Not here: the demands themselves (`demands`). Rules: a secret's value is never written, only its name; every number
comes from `Demands`, so that the manifests of one deployment agree; `deploy/` in the repository is the output for the
defaults (`python -m tests.check --write-docs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import msgspec

from narthex._version import __version__
from narthex.deploy.demands import (
    CLOUD_RUN_GRACE_S,
    LONGEST_REQUEST_S,
    MOST_CONCURRENT,
    PRESTOP_S,
    Demands,
    demands_of,
    fargate_size,
)
from narthex.errors import Bug, ConfigError
from narthex.settings import Settings
from narthex.settings.groups import option_fields
from narthex.settings.options import facts

PLATFORMS: Final = (
    "cloud-run", "alb", "terraform", "aws", "kubernetes", "helm", "compose", "systemd", "nginx", "haproxy", "caddy",
    "envoy", "traefik",
)  # fmt: skip
ROUTED: Final = frozenset(PLATFORMS) - {"cloud-run", "compose", "systemd"}
"""Platforms whose files route requests to narthex: at the root of a host, and none of them removes a path."""
DECIDED: Final = frozenset(
    {"environment", "host", "port", "data_dir", "public_url", "allowed_hosts", "drain_grace_s", "max_socket_life_s",
     "max_connections", "trusted_proxies", "log_format", "single_instance", "workers", "service_host"}
)  # fmt: skip
"""Options that the deployment decides below, not the copy of the caller's settings."""
ALWAYS_SECRET: Final = ("NARTHEX_ADMIN_KEY", "NARTHEX_METRICS_TOKEN")
ENGINES: Final = ("NARTHEX_BROKER_URL", "NARTHEX_STORE_URL")
_MARK: Final = re.compile(r"@\{(\w+)\}")
_ALONE: Final = re.compile(r"([ \t]*)@\{(\w+)\}[ \t]*")


class DeploymentTarget(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings do not say about a deployment.

    Attributes:
        name: of the service and of what belongs to it.
        image: of the container.
        domain: under which clients reach it.
        project_number: Google Cloud's, which is in the hosts of revision tags.
        upstream: host and port of the gateway, for proxies.
        program: path of the program, for systemd.
        max_instances: 1: the embedded engines may serve.
        network, subnet: Google Cloud's, through which Cloud Run reaches private addresses; empty: public ones only.
    """

    name: str = "narthex"
    image: str = "europe-docker.pkg.dev/my-project/narthex/gateway:0.1.0"
    domain: str = "chat.example.com"
    project: str = "my-project"
    project_number: str = "123456789012"
    region: str = "europe-west1"
    upstream: str = "127.0.0.1:8000"
    program: str = "/opt/narthex/bin/narthex"
    min_instances: int = 2
    max_instances: int = 10
    network: str = ""
    subnet: str = ""


def render(platform: str, settings: Settings, target: DeploymentTarget) -> dict[str, str]:
    """The files of a platform: path → text.

    Args:
        platform: one of `PLATFORMS`.
        settings: of the deployment, as `narthex serve` would read them.
        target: the rest.

    Raises:
        ConfigError: the settings name a root path, and the platform's files serve the root of a host.
    """
    if platform in ROUTED and settings.root_path:
        detail = (
            f"NARTHEX_ROOT_PATH is set, and the {platform} files serve narthex at the root of a host. Unset it; to "
            "serve below a path, write the route that removes the path by hand, and add the variable beside it: "
            "docs/edge.md#behind-a-proxy has one for nginx."
        )
        raise ConfigError([detail])
    values = _values(platform, settings, target)
    skipped = _skipped(platform, target)
    root = resources.files("narthex.deploy") / "templates" / platform
    return {
        path: fill(source.read_text(encoding="utf-8"), values, path)
        for path, source in sorted(_files(root))
        if path not in skipped
    }


def _files(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry))
    return found


def _skipped(platform: str, target: DeploymentTarget) -> frozenset[str]:
    """Files that one instance has no use for."""
    if target.max_instances > 1:
        return frozenset({"volume.yaml"})
    return (
        frozenset({"autoscaler.yaml", "disruption-budget.yaml"}) if platform == "kubernetes" else frozenset()
    )


def fill(template: str, values: Mapping[str, str], path: str) -> str:
    """Put the values in place of `@{name}`; several lines keep the indentation of a mark that stands alone."""
    lines: list[str] = []
    for line in template.splitlines():
        if (alone := _ALONE.fullmatch(line)) is not None:
            lines += [alone[1] + part if part else "" for part in _value(values, alone[2], path).splitlines()]
        else:
            lines.append(_MARK.sub(lambda mark: _value(values, mark[1], path), line))
    return "\n".join(lines) + "\n"


def _value(values: Mapping[str, str], name: str, path: str) -> str:
    try:
        return values[name]
    except KeyError as error:
        raise Bug("template", f"The template {path} has a mark without a value: {name}.") from error


def _values(platform: str, settings: Settings, target: DeploymentTarget) -> dict[str, str]:
    demands = demands_of(settings)
    managed = platform in ("cloud-run", "terraform", "alb")
    if managed:
        demands = demands.for_cloud_run()
    if platform == "aws":
        demands = demands.for_fargate()
    if platform in ("kubernetes", "helm", "cloud-run", "terraform", "aws"):
        demands = msgspec.structs.replace(demands, shared=target.max_instances > 1)
    variables = variables_of(platform, settings, target, demands)
    secrets = secrets_of(platform, settings, target)
    least = min(target.min_instances, target.max_instances)
    prestop = PRESTOP_S if platform in ("kubernetes", "helm") else 0.0
    timeout = max(LONGEST_REQUEST_S, int(demands.idle_s))
    cpus, memory = fargate_size(demands.workers, demands.memory_mib) if platform == "aws" else (0, 0)
    files = 1 << (demands.open_files - 1).bit_length()
    host, _, port = target.upstream.rpartition(":")
    head = max(16, -(-demands.limits.max_head_bytes // 1024))
    numbers: dict[str, int] = {
        "request_timeout_s": LONGEST_REQUEST_S,
        "concurrency": min(MOST_CONCURRENT, settings.max_connections * demands.workers),
        "min_instances": least,
        "max_instances": target.max_instances,
        "cpu": demands.workers,
        "memory_mib": demands.memory_mib,
        "grace_s": demands.grace_s + int(prestop),
        "prestop_s": int(PRESTOP_S),
        "proxy_timeout_s": timeout,
        "sockets": demands.sockets_of_instance,
        "target_sockets": demands.sockets_of_instance * 6 // 10,
        "open_files": max(65_536, files),
        "ping_s": int(demands.ping_interval_s),
        "head_kib": head,
        "head_kib_envoy": min(96, max(60, head)),
        "buffer_bytes": max(16_384, head * 1024 + 4096),
        "alb_idle_s": demands.alb_idle_s,
        "stop_timeout_s": demands.grace_s,
        "fargate_cpu": 1024 * cpus,
        "fargate_memory_mib": memory,
        "healthy_percent": 100 if target.max_instances > 1 else 0,
        "maximum_percent": 200 if target.max_instances > 1 else 100,
        "proxy_connections": max(50_000, 2 * demands.sockets_of_instance),
    }
    return {
        **{name: str(value) for name, value in numbers.items()},
        "name": target.name,
        "image": target.image,
        "domain": target.domain,
        "project": target.project,
        "region": target.region,
        "upstream": target.upstream,
        "upstream_host": host,
        "upstream_port": port,
        "program": target.program,
        "ingress": "all",
        "cpu_request": "500m" if demands.workers == 1 else str(demands.workers),
        "app_version": __version__,
        "chart_version": __version__.replace(".dev", "-dev."),
        "shared": "true" if demands.shared else "false",
        "autoscaling": "true" if demands.shared else "false",
        "strategy": "type: RollingUpdate\nrollingUpdate: {maxUnavailable: 0, maxSurge: 1}"
        if demands.shared
        else "# SQLite files belong to one process at a time.\ntype: Recreate",
        "desired_count": "" if target.max_instances > 1 else "DesiredCount: 1",
        "replicas": "" if target.max_instances > 1 else "replicas: 1",
        "data_volume": "emptyDir: {}"
        if demands.shared
        else f"persistentVolumeClaim: {{claimName: {target.name}}}",
        **_network(target),
        "secret_names_hcl": ", ".join(f'"{name}"' for name in secrets.values()),
        **{name: write(variables) for name, write in _VARIABLES.items()},
        **{name: write(secrets, target) for name, write in _SECRETS.items()},
    }


def variables_of(
    platform: str, settings: Settings, target: DeploymentTarget, demands: Demands
) -> dict[str, str]:
    """The plain variables of a deployment: what it decides, then the settings that are not the default."""
    remote = settings.environment in ("staging", "production")
    found = {
        "ENVIRONMENT": settings.environment if remote else "production",
        "NARTHEX_PUBLIC_URL": settings.public_url or f"https://{target.domain}",
        "NARTHEX_ALLOWED_HOSTS": ",".join(settings.allowed_hosts) or _hosts(platform, target),
        "NARTHEX_DRAIN_GRACE_S": f"{demands.drain_s:g}",
    }
    managed = platform in ("cloud-run", "terraform")
    if managed:
        found["NARTHEX_DRAIN_GRACE_S"] = f"{min(demands.drain_s, CLOUD_RUN_GRACE_S):g}"
    if demands.socket_life_s:
        found["NARTHEX_MAX_SOCKET_LIFE_S"] = f"{demands.socket_life_s:g}"
    found["NARTHEX_MAX_CONNECTIONS"] = str(settings.max_connections)
    if settings.trusted_proxies:
        found["NARTHEX_TRUSTED_PROXIES"] = ",".join(settings.trusted_proxies)
    elif platform != "cloud-run":  # there the last hop is the default; the load balancer adds one
        found["NARTHEX_TRUSTED_PROXIES"] = "2" if platform == "terraform" else "1"
    if demands.workers > 1:
        found["NARTHEX_WORKERS"] = str(demands.workers)
    if platform == "systemd":
        found |= {"NARTHEX_HOST": "127.0.0.1", "NARTHEX_PORT": target.upstream.rpartition(":")[2]}
        found["NARTHEX_DATA_DIR"] = "%S/" + target.name
    if managed and target.max_instances == 1:
        found["NARTHEX_SINGLE_INSTANCE"] = "1"
    for name, (_, field) in option_fields().items():
        known = facts(name, field)
        if name not in DECIDED and not known.secret and not known.url and settings.source(name) != "default":
            found[known.variables[0]] = _text(getattr(settings, name))
    return found


def _network(target: DeploymentTarget) -> dict[str, str]:
    """The path to private addresses, such as those of the engines, in both forms of a Cloud Run service."""
    named = {"network": target.network, "subnetwork": target.subnet}
    interface = {name: value for name, value in named.items() if value}
    if not interface:
        return {"network_knative": "", "network_terraform": ""}
    width = max(map(len, interface))
    rows = "\n".join(f"    {name:<{width}} = {_quoted(value)}" for name, value in interface.items())
    return {
        "network_knative": "# Through the VPC to private addresses only: issuers are reached directly.\n"
        f"run.googleapis.com/network-interfaces: '[{json.dumps(interface, separators=(',', ':'))}]'\n"
        "run.googleapis.com/vpc-access-egress: private-ranges-only",
        "network_terraform": "\n# Through the VPC to private addresses only: issuers are reached directly.\n"
        f'vpc_access {{\n  egress = "PRIVATE_RANGES_ONLY"\n  network_interfaces {{\n{rows}\n  }}\n}}',
    }


def _hosts(platform: str, target: DeploymentTarget) -> str:
    """The domain, and the hosts at which the pipeline's gate reaches a revision that has no traffic yet."""
    if platform == "cloud-run":
        return f"{target.domain},*---{target.name}-{target.project_number}.{target.region}.run.app"
    return f"{target.domain},candidate.{target.domain}" if platform == "terraform" else target.domain


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def secrets_of(platform: str, settings: Settings, target: DeploymentTarget) -> dict[str, str]:
    """The secret variables of a deployment, each with the name of its secret."""
    names = list(ALWAYS_SECRET)
    if platform in ("cloud-run", "terraform", "aws", "kubernetes", "helm") and target.max_instances > 1:
        names += ENGINES
    for name, (_, field) in option_fields().items():
        known = facts(name, field)
        if (known.secret or known.url) and settings.source(name) != "default":
            names.append(known.variables[0])
    # Secret Manager's names are the project's, not the service's.
    prefix = f"{target.name}-" if platform in ("cloud-run", "terraform") else ""
    return {
        name: prefix + name.removeprefix("NARTHEX_").lower().replace("_", "-")
        for name in dict.fromkeys(names)
    }


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_VARIABLES: Final[dict[str, Callable[[Mapping[str, str]], str]]] = {
    "variables_yaml": lambda found: "\n".join(
        f"- name: {name}\n  value: {_quoted(value)}" for name, value in found.items()
    ),
    "variables_ecs": lambda found: "\n".join(
        f"- Name: {name}\n  Value: {_quoted(value)}" for name, value in found.items()
    ),
    "variables_map": lambda found: "\n".join(f"{name}: {_quoted(value)}" for name, value in found.items()),
    "variables_systemd": lambda found: "\n".join(
        f"Environment={name}={value}" for name, value in found.items()
    ),
    "variables_terraform": lambda found: "\n\n".join(
        f"env {{\n  name  = {_quoted(name)}\n  value = {_quoted(value)}\n}}" for name, value in found.items()
    ),
}

_SECRETS: Final[dict[str, Callable[[Mapping[str, str], DeploymentTarget], str]]] = {
    "secrets_knative": lambda found, _: "\n".join(
        f"- name: {name}\n  valueFrom:\n    secretKeyRef:\n      name: {key}\n      key: latest"
        for name, key in found.items()
    ),
    "secrets_kubernetes": lambda found, target: "\n".join(
        f"- name: {name}\n  valueFrom:\n    secretKeyRef: {{name: {target.name}, key: {key}}}"
        for name, key in found.items()
    ),
    "secrets_ecs": lambda found, target: "\n".join(
        f"- Name: {name}\n  ValueFrom: !Sub arn:${{AWS::Partition}}:ssm:${{AWS::Region}}:${{AWS::AccountId}}:"
        f"parameter/{target.name}/{key}"
        for name, key in found.items()
    ),
    "secrets_map": lambda found, _: "\n".join(f"{name}: {key}" for name, key in found.items()),
    "secrets_files_map": lambda found, _: "\n".join(
        f"{name}_FILE: /run/secrets/{key}" for name, key in found.items()
    ),
    "secrets_names": lambda found, _: "\n".join(f"- {key}" for key in found.values()),
    "secrets_files": lambda found, _: "\n".join(f"{key}:\n  file: ./secrets/{key}" for key in found.values()),
    "secrets_systemd": lambda found, target: "\n".join(
        f"LoadCredential={key}:/etc/{target.name}/{key}\nEnvironment={name}_FILE=%d/{key}"
        for name, key in found.items()
    ),
    "secrets_terraform": lambda found, _: "\n\n".join(
        f"env {{\n  name = {_quoted(name)}\n  value_source {{\n    secret_key_ref {{\n"
        f'      secret  = google_secret_manager_secret.narthex["{key}"].secret_id\n'
        '      version = "latest"\n    }\n  }\n}'
        for name, key in found.items()
    ),
}
