"""AWS: an ECS service behind an Application Load Balancer, as CloudFormation has them.

Not here: other ways to write the same (CDK prints CloudFormation: check its output). Rules: what a template leaves out
is AWS's default: 30 s from SIGTERM to SIGKILL, 60 s of silence, 300 s of deregistration; a value that an intrinsic
function gives is not known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Hop, Manifest, Workload
from narthex.deploy.readers.containers import number, put_variable, words_of

T = TypeVar("T")
STOP_S = 30.0
IDLE_S = 60.0
DEREGISTRATION_S = 300.0
LARGEST_PERCENT = 200


def read(text: str, file: str) -> Manifest:
    """The services, and the load balancers in front of them."""
    found = Manifest()
    for document in read_yaml(text, file):
        resources = document["Resources"].members
        tasks = {name: _task(name, one) for name, one in _of(resources, "AWS::ECS::TaskDefinition")}
        services = dict(_of(resources, "AWS::ECS::Service"))
        run = {name: _named_by(one["TaskDefinition"], tasks) for name, one in services.items()}
        for name, service in services.items():
            for workload in run[name]:
                _service(workload, service)
        scaled = {
            name: _scale(name, target, _of_services(target["ResourceId"], services, run))
            for name, target in _of(resources, "AWS::ApplicationAutoScaling::ScalableTarget")
            if target["ServiceNamespace"].text in ("ecs", "")
        }
        for _, policy in _of(resources, "AWS::ApplicationAutoScaling::ScalingPolicy"):
            for workloads in _named_by(policy["ScalingTargetId"], scaled) or [list(tasks.values())]:
                _measure(workloads, policy)
        for name, group in _of(resources, "AWS::ElasticLoadBalancingV2::TargetGroup"):
            behind = [
                run[one] for one, service in services.items() if _mentions(service["LoadBalancers"], name)
            ]
            workloads = [one for some in behind for one in some] or list(tasks.values())
            found.hops.append(_target_group(name, group, workloads))
        for name, balancer in _of(resources, "AWS::ElasticLoadBalancingV2::LoadBalancer"):
            found.hops.append(_load_balancer(name, balancer))
        found.workloads += tasks.values()
    return found


def _named_by(node: Tree, among: Mapping[str, T]) -> list[T]:
    """Of the resources those that a value refers to; all of them where it names none, as with a parameter."""
    named = [one for name, one in among.items() if _mentions(node, name)]
    return named or list(among.values())


def _of_services(
    node: Tree, services: Mapping[str, Tree], run: Mapping[str, list[Workload]]
) -> list[Workload]:
    """The workloads of the services that a ScalableTarget names, by their resource or by their name on AWS."""
    literal = {name: one for name, one in services.items() if _mentions(node, one["ServiceName"].text)}
    chosen = {name: run[name] for name in literal} or run
    return [one for some in _named_by(node, chosen) for one in some]


def _mentions(node: Tree, name: str) -> bool:
    """Whether a value refers to a resource: `!Ref X`, `!GetAtt X.Name`, `!Sub …${X.Name}`, or their long forms."""
    if name and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", node.text):
        return True
    children = [*node.members.values(), *(node.value if isinstance(node.value, list) else [])]
    return any(_mentions(child, name) for child in children)


def _of(resources: object, kind: str) -> Iterator[tuple[str, Tree]]:
    """Name and properties of each resource of a type."""
    assert isinstance(resources, dict)
    for name, resource in resources.items():
        if resource["Type"].text == kind:
            yield name, resource["Properties"]


def _task(name: str, properties: Tree) -> Workload:
    workload = Workload(platform="aws", name=name, place=properties.place)
    workload.repeats += properties.all_repeats()
    workload.behind_proxy = True
    memory = number(properties["Memory"])
    for container in properties["ContainerDefinitions"].items[:1]:
        for entry in container["Environment"].items:
            put_variable(workload, entry["Name"].text, _literal(entry["Value"]), entry["Value"])
        for entry in container["Secrets"].items:
            put_variable(workload, entry["Name"].text, None, entry["Name"])
        workload.words = words_of(container["EntryPoint"], container["Command"])
        memory = number(container["Memory"]) or memory
        workload.grace_s = _seconds(container["StopTimeout"], STOP_S)
        for limit in container["Ulimits"].items:
            if limit["Name"].text == "nofile":
                workload.open_files = number(limit["SoftLimit"])
    if memory is not None:
        workload.memory_bytes = Fact(float(memory.value * 2**20), memory.place)
    return workload


def _service(workload: Workload, properties: Tree) -> None:
    workload.repeats += properties.all_repeats()
    count = properties["DesiredCount"]
    workload.min_instances = workload.max_instances = _whole(count, 1)
    if count and not _optional(count):
        workload.count = Fact(f"DesiredCount: {count.text}".rstrip(": "), count.place)
    most = _whole(properties.at("DeploymentConfiguration/MaximumPercent"), LARGEST_PERCENT)
    workload.overlaps = most.converted(lambda percent: percent > 100) if most else None


def _optional(node: Tree) -> bool:
    """Whether the value may be none at all: a condition decides, or it is `AWS::NoValue`."""
    return node.tag == "!If" or "Fn::If" in node.members or _mentions(node, "AWS::NoValue")


def _scale(name: str, properties: Tree, workloads: list[Workload]) -> list[Workload]:
    """Note the autoscaler at its workloads, and return them."""
    for workload in workloads:
        workload.max_instances = number(properties["MaxCapacity"])
        workload.autoscaler = f"the ScalableTarget {name}"
    return workloads


def _measure(workloads: list[Workload], properties: Tree) -> None:
    tracking = properties["TargetTrackingScalingPolicyConfiguration"]
    metric = tracking.at("PredefinedMetricSpecification/PredefinedMetricType")
    for workload in workloads:
        by_machine = metric.text in ("ECSServiceAverageCPUUtilization", "ECSServiceAverageMemoryUtilization")
        workload.scaled_by = Fact("cpu" if by_machine else "connections", metric.place)


def _target_group(name: str, properties: Tree, behind: list[Workload]) -> Hop:
    hop = Hop(platform="aws", name=name, place=properties.place)
    hop.repeats += properties.all_repeats()
    version = properties["ProtocolVersion"]
    hop.http2 = Fact(version.text in ("HTTP2", "GRPC"), version.place)
    attributes = _attributes(properties["TargetGroupAttributes"])
    sticky = attributes.get("stickiness.enabled")
    hop.affinity = Fact(sticky.text == "true", sticky.place) if sticky else None
    delay = attributes.get("deregistration_delay.timeout_seconds", Tree(None, properties.place))
    hop.removal_s = _seconds(delay, DEREGISTRATION_S)
    for workload in behind:  # ECS replaces a task whose target is unhealthy
        path = properties["HealthCheckPath"]
        workload.liveness = path.fact() if path else None
    return hop


def _load_balancer(name: str, properties: Tree) -> Hop:
    hop = Hop(platform="aws", name=name, place=properties.place)
    hop.repeats += properties.all_repeats()
    attributes = _attributes(properties["LoadBalancerAttributes"])
    hop.idle_s = _seconds(
        attributes.get("idle_timeout.timeout_seconds", Tree(None, properties.place)), IDLE_S
    )
    return hop


def _literal(node: Tree) -> str | None:
    """The text; None for what an intrinsic function gives: `!Ref X`, `{Ref: X}`, `{Fn::Sub: …}`."""
    return None if node.tag or not isinstance(node.value, str | None) or "${" in node.text else node.text


def _whole(node: Tree, default: int) -> Fact[int] | None:
    """A whole number; the platform's default where it is left out; None where a function gives it."""
    return number(node) if node else Fact(default, node.place, written=False)


def _seconds(node: Tree, default: float) -> Fact[float] | None:
    found = _whole(node, int(default))
    return found.converted(float) if found else None


def _attributes(node: Tree) -> dict[str, Tree]:
    return {entry["Key"].text: entry["Value"] for entry in node.items}
