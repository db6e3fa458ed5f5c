"""Docker Compose files. Rule: a value that a service leaves out is Docker's default: 10 s of grace, one container."""

from __future__ import annotations

from functools import partial

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Manifest, Workload
from narthex.deploy.readers.containers import duration, number, put_variable, words_of


def read(text: str, file: str) -> Manifest:
    """Every service whose image, build or command is narthex's, or the only one."""
    found = Manifest()
    for document in read_yaml(text, file):
        services = document["services"].members
        for name, service in services.items():
            told = (
                name + service["image"].text + " ".join(words_of(service["command"], service["entrypoint"]))
            )
            if "narthex" in told or len(services) == 1:
                workload = _workload(name, service)
                workload.behind_proxy = len(services) > 1
                found.workloads.append(workload)
    return found


def _workload(name: str, service: Tree) -> Workload:
    workload = Workload(platform="compose", name=name, place=service.place)
    workload.repeats += service.all_repeats()
    grace_s = duration(service["stop_grace_period"])
    workload.grace_s = grace_s or Fact(10.0, service.place, written=False)
    environment = service["environment"]
    for variable, value in environment.members.items():
        put_variable(workload, variable, value.text if value and "${" not in value.text else None, value)
    if isinstance(environment.value, list):
        for entry in environment.value:
            variable, has_value, given = entry.text.partition("=")
            put_variable(workload, variable, given if has_value and "${" not in given else None, entry)
    if service["env_file"]:
        workload.variables.setdefault("*", Fact(None, service["env_file"].place))
    command = service["command"]
    workload.words = tuple(command.text.split()) if command.text else words_of(command)
    if workload.words[:1] == ("narthex",):
        workload.words = workload.words[1:]
    memory = service.at("deploy/resources/limits/memory") or service["mem_limit"]
    workload.memory_bytes = memory.fact().converted(partial(quantities.size, binary=True))
    files = service.at("ulimits/nofile")
    workload.open_files = number(files["hard"]) or number(files)
    replicas = number(service.at("deploy/replicas")) or number(service["scale"])
    workload.max_instances = replicas or Fact(1, service.place, written=False)
    return workload
