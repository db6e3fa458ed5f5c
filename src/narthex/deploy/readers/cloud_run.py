"""Cloud Run services: Knative YAML as `gcloud run services replace` takes it, and the v2 API's form.

Not here: `gcloud` commands (`commands`), Terraform (`terraform`). Rule: a value that a manifest leaves out is
Cloud Run's default: 300 s, 80 requests an instance, 512 MiB, 100 instances, CPU only during requests.
"""

from __future__ import annotations

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Manifest, Place, Workload
from narthex.deploy.readers.containers import SNAKE, FieldNames, duration, flag, number, read_container

TIMEOUT_S = 300.0
CONCURRENCY = 80
MEMORY_BYTES = 512 * 2**20
MOST_INSTANCES = 100
GRACE_S = 10.0


def with_defaults(workload: Workload) -> Workload:
    """Fill in Cloud Run's defaults."""
    place = workload.place
    workload.grace_s = Fact(GRACE_S, place, written=False)
    workload.request_timeout_s = workload.request_timeout_s or Fact(TIMEOUT_S, place, written=False)
    workload.concurrency = workload.concurrency or Fact(CONCURRENCY, place, written=False)
    workload.memory_bytes = workload.memory_bytes or Fact(float(MEMORY_BYTES), place, written=False)
    workload.max_instances = workload.max_instances or Fact(MOST_INSTANCES, place, written=False)
    workload.cpu_throttled = workload.cpu_throttled or Fact(True, place, written=False)
    workload.overlaps = Fact(True, place, written=False)
    workload.behind_proxy = False  # the last hop is trusted by default (docs/security.md)
    return workload


def read(text: str, file: str) -> Manifest:
    """Every service of the file."""
    found = Manifest()
    for document in read_yaml(text, file):
        if document["kind"].text == "Service" and "serving.knative.dev" in document["apiVersion"].text:
            found.workloads.append(_knative(document))
        elif document["template"]["containers"]:
            found.workloads.append(v2_service(document, document["template"]))
    return found


def _knative(document: Tree) -> Workload:
    template = document.at("spec/template")
    spec, notes = template["spec"], template.at("metadata/annotations")
    workload = Workload(
        platform="cloud-run",
        name=document.at("metadata/name").text,
        place=Place(document.place.file, spec.place.line),
    )
    workload.repeats += document.all_repeats()
    workload.request_timeout_s = duration(spec["timeoutSeconds"])
    workload.concurrency = number(spec["containerConcurrency"])
    workload.min_instances = number(notes["autoscaling.knative.dev/minScale"])
    workload.max_instances = number(notes["autoscaling.knative.dev/maxScale"])
    workload.cpu_throttled = flag(notes["run.googleapis.com/cpu-throttling"])
    workload.affinity = flag(notes["run.googleapis.com/sessionAffinity"])
    for container in spec["containers"].items[:1]:
        read_container(workload, container)
    return with_defaults(workload)


def v2_service(document: Tree, template: Tree, *, snake: bool = False) -> Workload:
    """A service of the v2 API; in Terraform its members are in snake case."""

    def member(node: Tree, camel: str, snake_case: str) -> Tree:
        return node[snake_case] if snake else node[camel]

    workload = Workload(platform="cloud-run", name=document["name"].text, place=template.place)
    workload.repeats += document.all_repeats()
    workload.request_timeout_s = duration(template["timeout"])
    workload.concurrency = number(
        member(template, "maxInstanceRequestConcurrency", "max_instance_request_concurrency")
    )
    scaling = (template["scaling"].items or [template])[0]
    workload.min_instances = number(member(scaling, "minInstanceCount", "min_instance_count"))
    workload.max_instances = number(member(scaling, "maxInstanceCount", "max_instance_count"))
    workload.affinity = flag(member(template, "sessionAffinity", "session_affinity"))
    for container in template["containers"].items[:1]:
        read_container(workload, container, SNAKE if snake else FieldNames(value_from="valueSource"))
        resources = (container["resources"].items or [container])[0]
        workload.cpu_throttled = flag(member(resources, "cpuIdle", "cpu_idle")) or workload.cpu_throttled
        memory = resources["limits"]["memory"].fact()
        workload.memory_bytes = workload.memory_bytes or memory.converted(quantities.size)
    return with_defaults(workload)
