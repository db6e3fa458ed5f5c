"""A container as Kubernetes and Cloud Run write it: environment, command, ports, memory, probes.

Not here: the objects around it (`kubernetes`, `cloud_run`). Rule: names follow the API; the Terraform resource has the
same ones in snake case and is read by the same function.
"""

from __future__ import annotations

from typing import NamedTuple

from narthex.deploy import quantities
from narthex.deploy.documents import Tree
from narthex.deploy.facts import Fact, Repeat, Workload


def number(node: Tree) -> Fact[int] | None:
    """A whole number; None: it is not there, or is a template's expression."""
    return node.fact().converted(quantities.whole)


def duration(node: Tree) -> Fact[float] | None:
    """Seconds."""
    return node.fact().converted(quantities.seconds)


def flag(node: Tree) -> Fact[bool] | None:
    """`true` or `false`, quoted or not."""
    text = node.text.strip().lower()
    return Fact(text == "true", node.place) if text in ("true", "false") else None


def put_variable(workload: Workload, name: str, value: str | None, node: Tree) -> None:
    """Note a variable; one that is there already is a repeat, and the later value counts."""
    fact = Fact(value, node.place)
    if name in workload.variables:
        before = workload.variables[name]
        workload.repeats.append(
            Repeat(name, Fact(before.value or "", before.place), Fact(value or "", node.place))
        )
    workload.variables[name] = fact


def words_of(*nodes: Tree) -> tuple[str, ...]:
    """`command` and `args` in one list, without the program's name."""
    words = [item.text for node in nodes for item in (node.value if isinstance(node.value, list) else [])]
    return tuple(words[1:] if words and words[0].rpartition("/")[2] == "narthex" else words)


class FieldNames(NamedTuple):
    """The names of one API's members: Knative's and Kubernetes' are camel case, Terraform's snake case."""

    http_get: str = "httpGet"
    value_from: str = "valueFrom"
    liveness: str = "livenessProbe"


CAMEL = FieldNames()
SNAKE = FieldNames("http_get", "value_source", "liveness_probe")


def read_container(workload: Workload, container: Tree, names: FieldNames = CAMEL) -> None:
    """Take everything that a container says."""
    for entry in container["env"].items:
        value = entry["value"]
        known = value.text if value and "${" not in value.text else None
        put_variable(workload, entry["name"].text, known, value or entry["name"])
    workload.words = words_of(container["command"], container["args"])
    resources = (container["resources"].items or [Tree(None, container.place)])[0]
    memory = resources["limits"]["memory"].fact()
    workload.memory_bytes = memory.converted(quantities.size) or workload.memory_bytes
    workload.cpu_throttled = flag(resources["cpu_idle"]) or workload.cpu_throttled
    for port in container["ports"].items:
        if port["name"].text == "h2c":
            workload.http2 = Fact(True, port["name"].place)
    probe = (container[names.liveness].items or [Tree(None, container.place)])[0]
    get = (probe[names.http_get].items or [probe])[0]
    if get["path"]:
        workload.liveness = get["path"].fact()
