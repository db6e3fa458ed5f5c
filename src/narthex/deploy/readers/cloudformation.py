"""AWS: an ECS service behind an Application Load Balancer, as CloudFormation has them.

Not here: other ways to write the same (CDK prints CloudFormation: check its output). Rules: what a template leaves out
is AWS's default: 30 s from SIGTERM to SIGKILL, 60 s of silence, 300 s of deregistration; a value that an intrinsic
function gives is not known.
"""

from __future__ import annotations

from collections.abc import Iterator

from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Hop, Manifest, Workload
from narthex.deploy.readers.containers import number, put_variable, words_of

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
        for _, service in _of(resources, "AWS::ECS::Service"):
            for workload in tasks.values():
                _service(workload, service)
        for _, target in _of(resources, "AWS::ApplicationAutoScaling::ScalableTarget"):
            for workload in tasks.values():
                workload.max_instances = number(target["MaxCapacity"])
        for _, policy in _of(resources, "AWS::ApplicationAutoScaling::ScalingPolicy"):
            _scaled(tasks, policy)
        for name, group in _of(resources, "AWS::ElasticLoadBalancingV2::TargetGroup"):
            found.hops.append(_target_group(name, group, tasks))
        for name, balancer in _of(resources, "AWS::ElasticLoadBalancingV2::LoadBalancer"):
            found.hops.append(_load_balancer(name, balancer))
        found.workloads += tasks.values()
    return found


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
    workload.min_instances = workload.max_instances = _whole(properties["DesiredCount"], 1)
    most = _whole(properties.at("DeploymentConfiguration/MaximumPercent"), LARGEST_PERCENT)
    workload.overlaps = most.converted(lambda percent: percent > 100) if most else None


def _scaled(tasks: dict[str, Workload], properties: Tree) -> None:
    tracking = properties["TargetTrackingScalingPolicyConfiguration"]
    metric = tracking.at("PredefinedMetricSpecification/PredefinedMetricType")
    for workload in tasks.values():
        by_machine = metric.text in ("ECSServiceAverageCPUUtilization", "ECSServiceAverageMemoryUtilization")
        workload.scaled_by = Fact("cpu" if by_machine else "connections", metric.place)


def _target_group(name: str, properties: Tree, tasks: dict[str, Workload]) -> Hop:
    hop = Hop(platform="aws", name=name, place=properties.place)
    hop.repeats += properties.all_repeats()
    version = properties["ProtocolVersion"]
    hop.http2 = Fact(version.text in ("HTTP2", "GRPC"), version.place)
    attributes = _attributes(properties["TargetGroupAttributes"])
    sticky = attributes.get("stickiness.enabled")
    hop.affinity = Fact(sticky.text == "true", sticky.place) if sticky else None
    delay = attributes.get("deregistration_delay.timeout_seconds", Tree(None, properties.place))
    hop.removal_s = _seconds(delay, DEREGISTRATION_S)
    for workload in tasks.values():  # ECS replaces a task whose target is unhealthy
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
