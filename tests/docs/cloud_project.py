"""Plays `gcloud`, `docker` and `kubectl` for a tutorial: what one command needs, an earlier one must have made.

The project and the cluster are one JSON file, CLOUD_STATE. Rules: a command or a flag that the pages do not use, or
that the real program does not have, is refused with exit 2; so is every name that nothing made: an image that was not
pushed, a secret without its binding, an account, a namespace, a key of a secret, a container.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

ACCESSOR: Final = "roles/secretmanager.secretAccessor"
INVOKER: Final = "roles/run.invoker"


def refuse(message: str) -> NoReturn:
    """End as the real programs do: the reason on stderr, exit 2."""
    print(f"ERROR: {message}", file=sys.stderr)
    sys.exit(2)


class Words:
    """A command line: its names in order, and its flags, each with its values."""

    def __init__(self, words: list[str], flags: set[str]) -> None:
        self.names: list[str] = []
        self.flags: dict[str, list[str]] = {}
        rest = iter(words)
        for word in rest:
            if not word.startswith("-") or word == "-":
                self.names.append(word)
                continue
            name, has_value, value = word.lstrip("-").partition("=")
            if name not in flags:
                refuse(f"unrecognized arguments: {word}")
            self.flags.setdefault(name, []).append(value if has_value else next(rest, ""))

    def need(self, flag: str) -> str:
        """The value of a flag that must be there."""
        values = self.flags.get(flag, [""])
        if not values[-1]:
            refuse(f"argument --{flag}: Must be specified.")
        return values[-1]

    def name(self) -> str:
        """The only name."""
        if len(self.names) != 1:
            refuse(f"one name is needed, not {self.names}")
        return self.names[0]


def known(what: str, name: str, among: Any) -> None:
    """Refuse what nothing made."""
    if name not in among:
        refuse(f"{what} {name!r} was not found; there are {sorted(among)}")


# -- gcloud ----------------------------------------------------------------------------------------------------


def create_repository(state: dict[str, Any], words: Words) -> None:
    if words.need("repository-format") != "docker":
        refuse("the format is docker")
    state["registries"].append(
        f"{words.need('location')}-docker.pkg.dev/{words.need('project')}/{words.name()}"
    )


def configure_docker(state: dict[str, Any], words: Words) -> None:
    state["signed_in"].append(words.name())


def set_project(state: dict[str, Any], words: Words) -> None:
    what, state["project"] = words.names
    if what != "project":
        refuse(f"{what} is not set by these pages")


def create_account(state: dict[str, Any], words: Words) -> None:
    if not state["project"]:
        refuse("The required property [project] is not currently set.")
    state["accounts"].append(f"{words.name()}@{state['project']}.iam.gserviceaccount.com")


def create_secret(state: dict[str, Any], words: Words) -> None:
    if words.need("data-file") != "-" or not sys.stdin.read().strip():
        refuse("the secret's payload comes from standard input and is not empty")
    if words.name() in state["secrets"]:
        refuse(f"Secret [{words.name()}] already exists.")
    state["secrets"][words.name()] = []


def bind_secret(state: dict[str, Any], words: Words) -> None:
    known("secret", words.name(), state["secrets"])
    kind, _, account = words.need("member").partition(":")
    if kind != "serviceAccount":
        refuse(f"{kind} is no kind of member that reads secrets here")
    known("service account", account, state["accounts"])
    state["secrets"][words.name()].append([words.need("role"), account])


def replace_service(state: dict[str, Any], words: Words) -> None:
    service = yaml.safe_load(Path(words.name()).read_text(encoding="utf-8"))
    spec = service["spec"]["template"]["spec"]
    known("service account", spec["serviceAccountName"], state["accounts"])
    hosts = ""
    for container in spec["containers"]:
        known("image", container["image"], state["pushed"])
        for variable in container.get("env", []):
            if variable["name"] == "NARTHEX_ALLOWED_HOSTS":
                hosts = variable["value"]
            if "valueFrom" in variable:
                name = variable["valueFrom"]["secretKeyRef"]["name"]
                known("secret", name, state["secrets"])
                if [ACCESSOR, spec["serviceAccountName"]] not in state["secrets"][name]:
                    refuse(f"Permission denied on secret: {name} for {spec['serviceAccountName']}")
    state["services"][service["metadata"]["name"]] = {"region": words.need("region"), "hosts": hosts}


def bind_service(state: dict[str, Any], words: Words) -> None:
    service = _service(state, words, words.name())
    service["invokers"] = [words.need("role"), words.need("member")]


def map_domain(state: dict[str, Any], words: Words) -> None:
    service = _service(state, words, words.need("service"))
    if words.need("domain") not in service["hosts"].split(","):
        refuse(f"narthex would refuse {words.need('domain')}: it is not in {service['hosts']!r}")
    service["domain"] = words.need("domain")


def _service(state: dict[str, Any], words: Words, name: str) -> dict[str, Any]:
    known("service", name, state["services"])
    service: dict[str, Any] = state["services"][name]
    if service["region"] != words.need("region"):
        refuse(f"Cannot find service [{name}] in {words.need('region')}")
    return service


# -- docker ----------------------------------------------------------------------------------------------------


def build(state: dict[str, Any], words: Words) -> None:
    context = Path(words.name())
    for line in Path(words.need("file")).read_text(encoding="utf-8").splitlines():
        verb, *rest = line.split()
        for source in rest[:-1] if verb == "COPY" else []:
            if not (context / source).exists():
                refuse(f"{line}: {source} does not exist")
    state["built"].append(words.need("tag"))


def push(state: dict[str, Any], words: Words) -> None:
    image = words.name()
    known("image", image, state["built"])
    registry = image.partition("/")[0]
    if registry.endswith("pkg.dev"):
        known("sign-in at", registry, state["signed_in"])
        known("repository", image.rpartition("/")[0], state["registries"])
    state["pushed"].append(image)


# -- kubectl ---------------------------------------------------------------------------------------------------


def create_namespace(state: dict[str, Any], words: Words) -> None:
    state["namespaces"][words.name()] = {"secrets": {}, "deployments": {}}


def create_generic_secret(state: dict[str, Any], words: Words) -> None:
    pairs = [literal.partition("=") for literal in words.flags.get("from-literal", [])]
    if any(not value for _, _, value in pairs):
        refuse(f"an empty value in {[name for name, _, _ in pairs]}")
    _namespace(state, words)["secrets"][words.name()] = [name for name, _, _ in pairs]


def apply(state: dict[str, Any], words: Words) -> None:
    namespace = _namespace(state, words)
    for manifest in _manifests(Path(words.need("f"))):
        inside = manifest["metadata"].get("namespace", words.need("namespace"))
        if inside != words.need("namespace"):
            refuse(f"the namespace from the provided object {inside!r} does not match")
        if manifest["kind"] != "Deployment":
            continue
        containers = manifest["spec"]["template"]["spec"]["containers"]
        for container in containers:
            known("image", container["image"], state["pushed"])
            for variable in container.get("env", []):
                wanted = variable.get("valueFrom", {}).get("secretKeyRef")
                if wanted and not wanted.get("optional"):
                    known("secret", wanted["name"], namespace["secrets"])
                    known("key", wanted["key"], namespace["secrets"][wanted["name"]])
        namespace["deployments"][manifest["metadata"]["name"]] = {
            one["name"]: one["image"] for one in containers
        }


def rollout_status(state: dict[str, Any], words: Words) -> None:
    _deployment(state, words, words.name())


def set_image(state: dict[str, Any], words: Words) -> None:
    target, *images = words.names
    deployment = _deployment(state, words, target)
    for change in images:
        container, _, image = change.partition("=")
        known("container", container, deployment)
        deployment[container] = image


def _namespace(state: dict[str, Any], words: Words) -> dict[str, Any]:
    known("namespace", words.need("namespace"), state["namespaces"])
    found: dict[str, Any] = state["namespaces"][words.need("namespace")]
    return found


def _deployment(state: dict[str, Any], words: Words, target: str) -> dict[str, str]:
    kind, _, name = target.partition("/")
    if kind != "deployment":
        refuse(f"{kind} is not what these pages roll out")
    deployments = _namespace(state, words)["deployments"]
    known("deployment", name, deployments)
    found: dict[str, str] = deployments[name]
    return found


def _manifests(place: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(place.glob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(path.read_text(encoding="utf-8")))


COMMANDS: Final[dict[str, tuple[set[str], Callable[[dict[str, Any], Words], None]]]] = {
    "gcloud artifacts repositories create": ({"repository-format", "location", "project"}, create_repository),
    "gcloud auth configure-docker": (set(), configure_docker),
    "gcloud config set": (set(), set_project),
    "gcloud iam service-accounts create": (set(), create_account),
    "gcloud secrets create": ({"data-file"}, create_secret),
    "gcloud secrets add-iam-policy-binding": ({"role", "member"}, bind_secret),
    "gcloud run services replace": ({"region"}, replace_service),
    "gcloud run services add-iam-policy-binding": ({"region", "member", "role"}, bind_service),
    "gcloud beta run domain-mappings create": ({"service", "domain", "region"}, map_domain),
    "docker build": ({"file", "tag"}, build),
    "docker push": (set(), push),
    "kubectl create namespace": (set(), create_namespace),
    "kubectl create secret generic": ({"namespace", "from-literal"}, create_generic_secret),
    "kubectl apply": ({"namespace", "f"}, apply),
    "kubectl rollout status": ({"namespace"}, rollout_status),
    "kubectl set image": ({"namespace"}, set_image),
}
"""By the command's words, from the programs' references: its flags that the pages use, and what it does."""
NOTHING: Final[dict[str, Any]] = {
    **{name: [] for name in ("registries", "signed_in", "accounts", "built", "pushed")},
    **{name: {} for name in ("secrets", "services", "namespaces")},
    "project": "",
}
"""A new project, and a new cluster."""


def main(words: list[str]) -> None:
    """Run one command line, the program's name first."""
    if words[:2] == ["kubectl", "--namespace"]:
        words = ["kubectl", *words[3:], *words[1:3]]
    line = " ".join(words)
    command = next((one for one in COMMANDS if line.startswith(f"{one} ")), None)
    if command is None:
        refuse(f"Invalid choice: {line!r}")
    path = Path(os.environ["CLOUD_STATE"])
    state = json.loads(path.read_text(encoding="utf-8"))
    flags, act = COMMANDS[command]
    act(state, Words(words[len(command.split()) :], flags))
    path.write_text(json.dumps(state), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
