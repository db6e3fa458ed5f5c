"""Kubernetes objects: workloads, autoscalers, services, ingresses, Google's BackendConfig.

Rule: a value that an object leaves out is Kubernetes' default: 30 s of grace, one replica, a rolling update.
"""

from __future__ import annotations

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Autoscaler, Fact, Hop, Manifest, Workload
from narthex.deploy.readers.containers import duration, number, read_container

KINDS = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Pod")
NGINX = "nginx.ingress.kubernetes.io/"


def read(text: str, file: str) -> Manifest:
    """Every object of the file."""
    found = Manifest()
    documents = [
        item
        for document in read_yaml(text, file)
        for item in (document["items"].items if document["kind"].text == "List" else [document])
    ]
    for document in documents:
        kind = document["kind"].text
        if kind in KINDS:
            found.workloads += _workloads(document)
        elif kind == "HorizontalPodAutoscaler":
            found.autoscalers.append(_autoscaler(document))
        elif kind == "ScaledObject" and document["apiVersion"].text.startswith("keda.sh/"):
            found.autoscalers.append(_scaled_object(document))
        elif kind in ("Ingress", "BackendConfig", "Service"):
            found.hops += _hops(document, kind)
    return found


def _workloads(document: Tree) -> list[Workload]:
    spec = document["spec"]
    pod = spec if document["kind"].text == "Pod" else spec.at("template/spec")
    gateway = next(
        (c for c in pod["containers"].items if "narthex" in c["name"].text + c["image"].text), None
    )
    containers = pod["containers"].items
    if gateway is None and len(containers) != 1:
        return []
    gateway = gateway or containers[0]
    workload = Workload(platform="kubernetes", name=document.at("metadata/name").text, place=pod.place)
    workload.repeats += document.all_repeats()
    workload.behind_proxy = True
    workload.grace_s = duration(pod["terminationGracePeriodSeconds"]) or Fact(30.0, pod.place, written=False)
    read_container(workload, gateway)
    for source in gateway["envFrom"].items:
        workload.variables.setdefault("*", Fact(None, source.place))
    stop = gateway.at("lifecycle/preStop")
    slept = stop.at("sleep/seconds").text or next(
        (
            item.text
            for item in stop.at("exec/command").items[1:2]
            if "sleep" in stop.at("exec/command").items[0].text
        ),
        "",
    )
    workload.prestop_s = float(slept) if slept.isdigit() else 0.0
    replicas = spec["replicas"]
    workload.max_instances = number(replicas) or Fact(1, spec.place, written=False)
    workload.count = Fact(f"replicas: {replicas.text}", replicas.place) if replicas else None
    kind = spec["strategy"]["type"]
    workload.overlaps = Fact(
        kind.text != "Recreate" and document["kind"].text == "Deployment", kind.place, written=bool(kind)
    )
    return [workload]


def _autoscaler(document: Tree) -> Autoscaler:
    spec = document["spec"]
    names = [
        metric.at("resource/name").text or metric.at("pods/metric/name").text or metric["type"].text
        for metric in spec["metrics"].items
    ]
    metrics = _metrics(names, spec["metrics"] or spec)
    target = spec.at("scaleTargetRef/name").text
    return Autoscaler(_named(document), target, number(spec["maxReplicas"]), metrics)


def _scaled_object(document: Tree) -> Autoscaler:
    """KEDA's form, of which its operator makes an autoscaler."""
    spec = document["spec"]
    metrics = _metrics([one["type"].text for one in spec["triggers"].items], spec["triggers"] or spec)
    target = spec.at("scaleTargetRef/name").text
    return Autoscaler(_named(document), target, number(spec["maxReplicaCount"]), metrics)


def _metrics(names: list[str], node: Tree) -> Fact[str]:
    cpu_only = all(name in ("cpu", "memory") for name in names)
    return Fact("cpu" if cpu_only else ", ".join(names), node.place)


def _named(document: Tree) -> str:
    return f"the {document['kind'].text} {document.at('metadata/name').text}"


def _hops(document: Tree, kind: str) -> list[Hop]:
    notes = document.at("metadata/annotations")
    hop = Hop(platform="kubernetes", name=document.at("metadata/name").text, place=document.place)
    hop.repeats += document.all_repeats()
    if kind == "BackendConfig":
        hop.life_s = duration(document.at("spec/timeoutSec")) or Fact(
            30.0, document.at("spec").place, written=False
        )
        affinity = document.at("spec/sessionAffinity/affinityType")
        hop.affinity = Fact(affinity.text.upper() != "NONE", affinity.place) if affinity else None
        return [hop]
    if kind == "Service":
        affinity = document.at("spec/sessionAffinity")
        hop.affinity = Fact(affinity.text == "ClientIP", affinity.place) if affinity else None
        return [hop]
    given = notes[NGINX + "proxy-read-timeout"]
    nginx = document.at("spec/ingressClassName").text == "nginx" or any(
        name.startswith(NGINX) for name in notes.members
    )
    if nginx:
        read = quantities.seconds(given.text) if given else 60.0
        hop.idle_s = Fact(read or 60.0, given.place if given else document.place, written=bool(given))
        protocol = notes[NGINX + "backend-protocol"]
        hop.http2 = Fact(protocol.text.upper().startswith("GRPC"), protocol.place) if protocol else None
        affinity = notes[NGINX + "affinity"]
        hop.affinity = Fact(True, affinity.place) if affinity else None
    return [hop]
