"""Manifests for Google Cloud as the messages of Google's own API clients, strictly: an unknown member fails.

`google.cloud.run_v2` is the schema of Cloud Run. A Knative service is translated first, member by member; what this
module does not know is refused, so that a template cannot gain an annotation that nobody looked up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from google.cloud import compute_v1, run_v2
from google.protobuf.json_format import ParseDict

INGRESS: Final = {
    "all": "INGRESS_TRAFFIC_ALL",
    "internal-and-cloud-load-balancing": "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
}
RESOURCES: Final[dict[str, Any]] = {
    "google_compute_region_network_endpoint_group": compute_v1.NetworkEndpointGroup,
    "google_compute_security_policy": compute_v1.SecurityPolicy,
    "google_compute_backend_service": compute_v1.BackendService,
    "google_compute_managed_ssl_certificate": compute_v1.SslCertificate,
    "google_compute_url_map": compute_v1.UrlMap,
    "google_compute_target_https_proxy": compute_v1.TargetHttpsProxy,
    "google_compute_global_address": compute_v1.Address,
    "google_compute_global_forwarding_rule": compute_v1.ForwardingRule,
}
"""Terraform's resources and the messages that the provider sends for them."""
RENAMED: Final = {
    "backend": "backends",
    "rule": "rules",
    "ip_address": "I_p_address",
    "host_rule": "host_rules",
    "path_matcher": "path_matchers",
}
"""Where Terraform's name is not the API's: repeated blocks are singular there."""


def service_of_knative(document: Mapping[str, Any]) -> run_v2.Service:
    """`gcloud run services replace`'s form as the v2 service that it becomes."""
    metadata, template = document["metadata"], document["spec"]["template"]
    spec, notes = template["spec"], dict(template["metadata"]["annotations"])
    only(metadata, "name", "annotations")
    only(metadata["annotations"], "run.googleapis.com/ingress")
    only(document["spec"], "template", "traffic")
    only(spec, "serviceAccountName", "timeoutSeconds", "containerConcurrency", "containers")
    (container,) = (dict(one) for one in spec["containers"])
    limits = dict(container.pop("resources")["limits"])
    throttled = notes.pop("run.googleapis.com/cpu-throttling")
    generation = notes.pop("run.googleapis.com/execution-environment").upper()
    interfaces = json.loads(notes.pop("run.googleapis.com/network-interfaces", "[]"))
    egress = notes.pop("run.googleapis.com/vpc-access-egress", "").upper().replace("-", "_")
    translated = {
        "ingress": INGRESS[metadata["annotations"]["run.googleapis.com/ingress"]],
        "template": {
            "serviceAccount": spec["serviceAccountName"],
            "timeout": f"{spec['timeoutSeconds']}s",
            "maxInstanceRequestConcurrency": spec["containerConcurrency"],
            "executionEnvironment": f"EXECUTION_ENVIRONMENT_{generation}",
            **({"vpcAccess": {"networkInterfaces": interfaces, "egress": egress}} if interfaces else {}),
            "scaling": {
                "minInstanceCount": int(notes.pop("autoscaling.knative.dev/minScale")),
                "maxInstanceCount": int(notes.pop("autoscaling.knative.dev/maxScale")),
            },
            "containers": [
                {
                    **container,
                    "env": [_variable(entry) for entry in container["env"]],
                    "resources": {"limits": limits, "cpuIdle": throttled == "true"},
                }
            ],
        },
        "traffic": [
            {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": target["percent"]}
            for target in document["spec"]["traffic"]
        ],
    }
    assert not notes, f"annotations that this translation does not know: {sorted(notes)}"
    return parsed(translated)


def only(found: Mapping[str, Any], *known: str) -> None:
    """Fail on a member that the translation does not know."""
    assert set(found) <= set(known), sorted(set(found) - set(known))


def _variable(entry: Mapping[str, Any]) -> dict[str, Any]:
    if "value" in entry:
        only(entry, "name", "value")
        return dict(entry)
    only(entry, "name", "valueFrom")
    reference = entry["valueFrom"]["secretKeyRef"]
    only(reference, "name", "key")
    return {
        "name": entry["name"],
        "valueSource": {"secretKeyRef": {"secret": reference["name"], "version": reference["key"]}},
    }


def parsed(service: Mapping[str, Any]) -> run_v2.Service:
    """The message. Raises ParseError for a member that it does not have, or a value of another kind."""
    message = run_v2.Service.pb(run_v2.Service())
    ParseDict(dict(service), message)
    found: run_v2.Service = run_v2.Service.wrap(message)
    return found


def service_of_terraform(body: Mapping[str, Any]) -> run_v2.Service:
    """A `google_cloud_run_v2_service`: its names are the API's in snake case; blocks are lists of one."""
    own = ("name", "location", "lifecycle", "depends_on")
    kept = {name: value for name, value in body.items() if name not in own}
    return parsed(_json(kept, run_v2.Service))


def _json(body: Mapping[str, Any], message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name.startswith("__"):
            continue
        field = message.meta.fields.get(name)
        assert field is not None, f"{message.__name__} has no {name}"
        camel = re.sub(r"_(\w)", lambda part: part[1].upper(), name)
        if name == "limits":  # a map
            found[camel] = _plain(value)
            continue
        items = value if isinstance(value, list) else [value]
        inner = [
            _json(item, field.message)
            if isinstance(item, dict) and hasattr(field.message, "meta")
            else _plain(item)
            for item in items
        ]
        found[camel] = inner if field.repeated else inner[0]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip('"')
    if isinstance(value, dict):
        return {name.strip('"'): _plain(inner) for name, inner in value.items() if not name.startswith("__")}
    return value


def unknown_members(kind: str, body: Mapping[str, Any], message: Any | None = None) -> list[str]:
    """Attributes of a compute resource, and of its blocks, that the API's message does not have."""
    wanted = message or RESOURCES[kind]
    found: list[str] = []
    for name, value in body.items():
        if name.startswith("__"):
            continue
        field = wanted.meta.fields.get(RENAMED.get(name, name)) or wanted.meta.fields.get(name)
        if field is None:
            found.append(f"{wanted.__name__}.{name}")
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and hasattr(field.message, "meta"):
                found += unknown_members(kind, item, field.message)
    return found
