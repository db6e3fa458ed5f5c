"""Terraform: `google_cloud_run_v2_service`, `google_compute_backend_service` and the serverless group behind it."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.deploy.documents import Tree, read_hcl
from narthex.deploy.facts import Fact, Hop, Manifest
from narthex.deploy.readers.cloud_run import v2_service
from narthex.deploy.readers.containers import duration

SERVICES = ("google_cloud_run_v2_service",)
BACKENDS = ("google_compute_backend_service", "google_compute_region_backend_service")
GROUPS = ("google_compute_region_network_endpoint_group",)
BACKEND_TIMEOUT_S = 30.0


def read(text: str, file: str) -> Manifest:
    """Every resource of the file that concerns the path of a socket."""
    tree = read_hcl(text, file)
    found = Manifest()
    serverless = {name for kind, name, body in _resources(tree) if kind in GROUPS and _serverless(body)}
    for kind, name, body in _resources(tree):
        if kind in SERVICES:
            for template in body["template"].items[:1]:
                workload = v2_service(body, template, snake=True)
                workload.name = workload.name if "${" not in workload.name else name
                found.workloads.append(workload)
        elif kind in BACKENDS:
            found.hops.append(_backend(name, body, serverless))
    return found


def _resources(tree: Tree) -> Iterator[tuple[str, str, Tree]]:
    for block in tree["resource"].items:
        for kind, named in block.members.items():
            for name, body in named.members.items():
                yield kind, name, body


def _serverless(body: Tree) -> bool:
    return body["network_endpoint_type"].text == "SERVERLESS"


def _backend(name: str, body: Tree, serverless: set[str]) -> Hop:
    hop = Hop(platform="terraform", name=name, place=body.place)
    groups = " ".join(backend["group"].text for backend in body["backend"].items)
    is_serverless = any(f"network_endpoint_group.{group}." in groups for group in serverless)
    given = duration(body["timeout_sec"])
    if is_serverless and given is not None and given.value != BACKEND_TIMEOUT_S:
        hop.refused = body["timeout_sec"].fact()
    elif not is_serverless:
        hop.life_s = given or Fact(BACKEND_TIMEOUT_S, body.place, written=False)
    protocol = body["protocol"]
    if protocol:
        hop.http2 = Fact(protocol.text.upper() in ("HTTP2", "H2C", "GRPC"), protocol.place)
    affinity = body["session_affinity"]
    if affinity:
        hop.affinity = Fact(affinity.text.upper() != "NONE", affinity.place)
    return hop
