"""Docker Compose files. Rule: a value that a service leaves out is Docker's default: 10 s of grace, one container."""

from __future__ import annotations

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Manifest, Workload
from narthex.deploy.readers.containers import number, put_variable, words_of


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
    grace = quantities.seconds(service["stop_grace_period"].text)
    workload.grace_s = (
        Fact(10.0, service.place, written=False)
        if grace is None
        else Fact(grace, service["stop_grace_period"].place)
    )
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
    if (found := quantities.size(memory.text, binary=True)) is not None:
        workload.memory_bytes = Fact(found, memory.place)
    files = service.at("ulimits/nofile")
    workload.open_files = number(files["hard"]) or number(files)
    replicas = number(service.at("deploy/replicas")) or number(service["scale"])
    workload.max_instances = (
        Fact(replicas.value, replicas.place) if replicas else Fact(1, service.place, written=False)
    )
    return workload
