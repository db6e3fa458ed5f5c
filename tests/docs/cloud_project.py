"""Plays `gcloud`, `aws`, `docker`, `kubectl` and `terraform`: an earlier command must have made what a later one needs.

The project and the cluster are one dictionary. Rules: a command or a flag that the pages do not use, or
that the real program does not have, is refused; so is every name that nothing made: an API that is not
enabled, an image that was not pushed, a secret without its binding or its value, an account, a namespace, a key of a
secret, a container; and a service whose engines have private addresses which it has no network to reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

ACCESSOR: Final = "roles/secretmanager.secretAccessor"
INVOKER: Final = "roles/run.invoker"


class Refused(Exception):
    """The real program would have ended with an error."""


def refuse(message: str) -> NoReturn:
    """Refuse the command."""
    raise Refused(message)


class Words:
    """A command line: its names in order, and its flags, each with its values.

    Attributes:
        folder: in which it is typed.
        stdin: what is piped into it.
    """

    def __init__(self, words: list[str], flags: set[str], folder: Path, stdin: str) -> None:
        self.folder, self.stdin = folder, stdin
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


def project(state: dict[str, Any], api: str) -> str:
    """The project, in which this API must be enabled: gcloud asks a person otherwise, and Terraform fails."""
    found: str = state["project"]
    if "gcloud" not in state["signed_in"]:
        refuse("You do not currently have an active account selected.")
    if not found:
        refuse("The required property [project] is not currently set.")
    if f"{api}.googleapis.com" not in state["apis"]:
        refuse(f"API [{api}.googleapis.com] not enabled on project [{found}].")
    return found


def enable_apis(state: dict[str, Any], words: Words) -> None:
    state["apis"] += words.names if state["project"] else refuse("there is no project")


def sign_in(state: dict[str, Any], _: Words) -> None:
    state["signed_in"].append("gcloud")


def sign_in_programs(state: dict[str, Any], _: Words) -> None:
    state["signed_in"].append("programs")


def create_repository(state: dict[str, Any], words: Words) -> None:
    if words.need("repository-format") != "docker":
        refuse("the format is docker")
    place = f"{words.need('location')}-docker.pkg.dev/{project(state, 'artifactregistry')}"
    state["registries"].append(f"{place}/{words.name()}")


def configure_docker(state: dict[str, Any], words: Words) -> None:
    state["signed_in"].append(words.name())


def set_project(state: dict[str, Any], words: Words) -> None:
    what, state["project"] = words.names
    if what != "project":
        refuse(f"{what} is not set by these pages")


def create_account(state: dict[str, Any], words: Words) -> None:
    state["accounts"].append(f"{words.name()}@{project(state, 'iam')}.iam.gserviceaccount.com")


def create_secret(state: dict[str, Any], words: Words) -> None:
    project(state, "secretmanager")
    if words.name() in state["secrets"]:
        refuse(f"Secret [{words.name()}] already exists.")
    state["secrets"][words.name()] = []
    add_version(state, words)


def add_version(state: dict[str, Any], words: Words) -> None:
    known("secret", words.name(), state["secrets"])
    value = words.stdin.strip() if words.need("data-file") == "-" else ""
    state["values"][words.name()] = value or refuse(
        "the secret's payload comes from standard input and is not empty"
    )


def bind_secret(state: dict[str, Any], words: Words) -> None:
    known("secret", words.name(), state["secrets"])
    kind, _, account = words.need("member").partition(":")
    if kind != "serviceAccount":
        refuse(f"{kind} is no kind of member that reads secrets here")
    known("service account", account, state["accounts"])
    state["secrets"][words.name()].append([words.need("role"), account])


def replace_service(state: dict[str, Any], words: Words) -> None:
    project(state, "run")
    service = yaml.safe_load((words.folder / words.name()).read_text(encoding="utf-8"))
    spec = service["spec"]["template"]["spec"]
    networked = (
        "run.googleapis.com/network-interfaces" in service["spec"]["template"]["metadata"]["annotations"]
    )
    known("service account", spec["serviceAccountName"], state["accounts"])
    hosts = ""
    for container in spec["containers"]:
        runnable(state, container["image"])
        for variable in container.get("env", []):
            if variable["name"] == "NARTHEX_ALLOWED_HOSTS":
                hosts = variable["value"]
            if "valueFrom" in variable:
                name = variable["valueFrom"]["secretKeyRef"]["name"]
                known("secret", name, state["secrets"])
                if [ACCESSOR, spec["serviceAccountName"]] not in state["secrets"][name]:
                    refuse(f"Permission denied on secret: {name} for {spec['serviceAccountName']}")
                reachable(state, name, networked)
    state["services"][service["metadata"]["name"]] = {"region": words.need("region"), "hosts": hosts}


def runnable(state: dict[str, Any], image: str) -> None:
    """Refuse an image that is not there, or that was built for the processor of a reader's own machine."""
    known("image", image, state["pushed"])
    if state["built"][image] != "linux/amd64":
        refuse("Container manifest type must support amd64/linux.")


def reachable(state: dict[str, Any], secret: str, networked: bool) -> None:
    """Refuse a service whose engine has a private address and which has no network: it never becomes ready."""
    known("version of the secret", secret, state["values"])
    host = re.search(r"//(?:[^@/]*@)?([\w.-]+)", state["values"][secret])
    if host is not None and re.match(r"10\.|.*\.internal$", host[1]) and not networked:
        refuse(f"The user-provided container failed its start-up probe: {secret} names a private address")


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


# -- the identity of a pipeline ----------------------------------------------------------------------------------


def bind_account(state: dict[str, Any], words: Words) -> None:
    known("service account", words.name(), state["accounts"])
    pool = re.fullmatch(
        r"principalSet://iam\.googleapis\.com/projects/\d+/locations/global/workloadIdentityPools/([\w-]+)/(.*)",
        words.need("member"),
    )
    if pool is not None:
        known("pool", pool[1], state["pools"])
    else:
        known("member", words.need("member").removeprefix("serviceAccount:"), state["accounts"])
    state["roles"].append([words.name(), words.need("role"), pool[2] if pool else words.need("member")])


def bind_project(state: dict[str, Any], words: Words) -> None:
    if words.name() != project(state, "iam"):
        refuse(f"[{words.name()}] is not the project of this page")
    known("member", words.need("member").removeprefix("serviceAccount:"), state["accounts"])
    state["roles"].append(["project", words.need("role"), words.need("member")])


def create_pool(state: dict[str, Any], words: Words) -> None:
    for api in ("iam", "iamcredentials", "sts"):
        project(state, api)
    state["pools"][words.name()] = {} if words.need("location") == "global" else refuse("pools are global")


def create_provider(state: dict[str, Any], words: Words) -> None:
    known("pool", words.need("workload-identity-pool"), state["pools"])
    state["pools"][words.need("workload-identity-pool")][words.name()] = [
        words.need(name) for name in ("issuer-uri", "attribute-mapping", "attribute-condition")
    ]


def submit_build(state: dict[str, Any], words: Words) -> None:
    """The build runs as its account, with its secret; a substitution that the file does not declare is refused."""
    project(state, "cloudbuild")
    text = (words.folder / words.need("config")).read_text(encoding="utf-8")
    account = words.need("service-account").removeprefix(f"projects/{state['project']}/serviceAccounts/")
    known("service account", account, state["accounts"])
    for role in ("roles/cloudbuild.builds.builder", "roles/run.developer"):
        if ["project", role, f"serviceAccount:{account}"] not in state["roles"]:
            refuse(f"{account} lacks {role}")
    declared = re.findall(r"^  (_\w+):", text, re.MULTILINE)
    for pair in words.need("substitutions").split(","):
        known("substitution", pair.partition("=")[0], declared)
    for secret in re.findall(r"secrets/([\w-]+)/versions", text):
        known("secret", secret, state["secrets"])
        if [ACCESSOR, account] not in state["secrets"][secret]:
            refuse(f"Permission denied on secret: {secret} for {account}")
    state["builds"].append(account)


def describe_account(state: dict[str, Any], words: Words) -> None:
    known("service account", words.name(), state["accounts"])


# -- terraform ---------------------------------------------------------------------------------------------------


def init_terraform(state: dict[str, Any], words: Words) -> None:
    state["initialized"].append(str(words.folder))


def apply_terraform(state: dict[str, Any], words: Words) -> None:
    """The resources of this directory, or the one that is asked for; in the order that their references give."""
    if str(words.folder) not in state["initialized"]:
        refuse("This directory has not been initialized. Run: terraform init")
    if "programs" not in state["signed_in"]:
        refuse("could not find default credentials: gcloud auth application-default login")
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(words.folder.glob("*.tf")))
    named = re.search(r'"google_secret_manager_secret" "narthex" \{\s+for_each += toset\(\[(.*)\]\)', text)
    project(state, "secretmanager")
    for secret in re.findall(r'"([^"]+)"', named[1]) if named else refuse("no secrets here"):
        state["secrets"].setdefault(secret, [])
    target = words.flags.get("target")
    if target is not None:
        if target != ["google_secret_manager_secret.narthex"]:
            refuse(f"these pages do not apply {target} alone")
        return
    for api in ("run", "compute", "iam"):
        project(state, api)
    default = re.search(r'variable "image" \{[^}]*default = "([^"]+)"', text)
    runnable(state, default[1] if default else "")
    if "depends_on = [google_secret_manager_secret_iam_member.narthex]" not in text:
        refuse("Permission denied on secret: the binding is made after the service")
    for secret in state["secrets"]:
        reachable(state, secret, "vpc_access {" in text)
    state["address"] = "203.0.113.7"


def output_of_terraform(state: dict[str, Any], words: Words) -> None:
    if words.need("raw") not in state or not state["address"]:
        refuse(f"Output {words.need('raw')!r} not found")


# -- aws -----------------------------------------------------------------------------------------------------------


def put_parameter(state: dict[str, Any], words: Words) -> None:
    if words.need("type") != "SecureString":
        refuse("a secret is a SecureString")
    state["parameters"][words.need("name")] = words.need("value")


def deploy_stack(state: dict[str, Any], words: Words) -> None:
    """Every parameter without a default is given, and every secret that the template names exists."""
    text = (words.folder / words.need("template-file")).read_text(encoding="utf-8")
    if words.need("capabilities") != "CAPABILITY_IAM":
        refuse("InsufficientCapabilitiesException: Requires capabilities : [CAPABILITY_IAM]")
    given = [pair.partition("=")[0] for pair in [words.need("parameter-overrides"), *words.names]]
    declared = text.partition("\nParameters:\n")[2].partition("\nResources:\n")[0]
    for name, body in re.findall(r"^  (\w+):\n((?:    .*\n?)+)", declared, re.MULTILINE):
        if name not in given and "Default:" not in body:
            refuse(f"Parameters: [{name}] must have values")
    for name in re.findall(r":parameter(/[\w/-]+)$", text, re.MULTILINE):
        known("parameter", name, state["parameters"])
    state["stacks"][words.need("stack-name")] = given


def describe_stack(state: dict[str, Any], words: Words) -> None:
    known("stack", words.need("stack-name"), state["stacks"])


# -- docker ----------------------------------------------------------------------------------------------------


def build(state: dict[str, Any], words: Words) -> None:
    context = words.folder / words.name()
    for line in (words.folder / words.need("file")).read_text(encoding="utf-8").splitlines():
        verb, *rest = line.split() or [""]
        copied = rest[:-1] if verb == "COPY" and not line.startswith("COPY --from") else []
        for source in copied:
            if not (context / source).exists():
                refuse(f"{line}: {source} does not exist")
    state["built"][words.need("tag")] = words.flags.get("platform", [""])[-1]


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
    state["namespaces"][words.name()] = {"secrets": {}, "deployments": {}, "ingresses": []}


def create_generic_secret(state: dict[str, Any], words: Words) -> None:
    pairs = [literal.partition("=") for literal in words.flags.get("from-literal", [])]
    if any(not value for _, _, value in pairs):
        refuse(f"an empty value in {[name for name, _, _ in pairs]}")
    _namespace(state, words)["secrets"][words.name()] = [name for name, _, _ in pairs]


def create_tls_secret(state: dict[str, Any], words: Words) -> None:
    for file in (words.need("cert"), words.need("key")):
        if not (words.folder / file).is_file():
            refuse(f"failed to read {file}")
    _namespace(state, words)["secrets"][words.name()] = ["tls.crt", "tls.key"]


def apply(state: dict[str, Any], words: Words) -> None:
    namespace = _namespace(state, words)
    for manifest in _manifests(words.folder / words.need("f")):
        inside = manifest["metadata"].get("namespace", words.need("namespace"))
        if inside != words.need("namespace"):
            refuse(f"the namespace from the provided object {inside!r} does not match")
        if (
            manifest["kind"] == "ServiceMonitor"
        ):  # a cluster without the Prometheus operator, as most new ones are
            refuse('no matches for kind "ServiceMonitor" in version "monitoring.coreos.com/v1"')
        if manifest["kind"] == "Ingress":
            for tls in manifest["spec"]["tls"]:
                known("certificate", tls["secretName"], namespace["secrets"])
            namespace["ingresses"].append(manifest["metadata"]["name"])
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
        known("image", image, state["pushed"])
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


def get_ingress(state: dict[str, Any], words: Words) -> None:
    known("ingress", words.name(), _namespace(state, words)["ingresses"])


def _manifests(place: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(place.glob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(path.read_text(encoding="utf-8")))


COMMANDS: Final[dict[str, tuple[set[str], Callable[[dict[str, Any], Words], None]]]] = {
    "gcloud auth login": (set(), sign_in),
    "gcloud auth application-default login": (set(), sign_in_programs),
    "gcloud services enable": (set(), enable_apis),
    "gcloud artifacts repositories create": ({"repository-format", "location"}, create_repository),
    "gcloud auth configure-docker": (set(), configure_docker),
    "gcloud config set": (set(), set_project),
    "gcloud iam service-accounts create": (set(), create_account),
    "gcloud iam service-accounts add-iam-policy-binding": ({"role", "member"}, bind_account),
    "gcloud iam service-accounts describe": ({"format"}, describe_account),
    "gcloud builds submit": ({"config", "service-account", "substitutions"}, submit_build),
    "gcloud iam workload-identity-pools create": ({"location"}, create_pool),
    "gcloud iam workload-identity-pools providers create-oidc": (
        {"location", "workload-identity-pool", "issuer-uri", "attribute-mapping", "attribute-condition"},
        create_provider,
    ),
    "gcloud projects add-iam-policy-binding": ({"role", "member", "condition"}, bind_project),
    "gcloud secrets create": ({"data-file"}, create_secret),
    "gcloud secrets versions add": ({"data-file"}, add_version),
    "gcloud secrets add-iam-policy-binding": ({"role", "member"}, bind_secret),
    "gcloud run services replace": ({"region"}, replace_service),
    "gcloud run services add-iam-policy-binding": ({"region", "member", "role"}, bind_service),
    "gcloud beta run domain-mappings create": ({"service", "domain", "region"}, map_domain),
    "aws ssm put-parameter": ({"type", "name", "value"}, put_parameter),
    "aws cloudformation deploy": (
        {"stack-name", "template-file", "capabilities", "parameter-overrides"},
        deploy_stack,
    ),
    "aws cloudformation describe-stacks": ({"stack-name", "query"}, describe_stack),
    "docker build": ({"file", "tag", "platform"}, build),
    "docker push": (set(), push),
    "kubectl create namespace": (set(), create_namespace),
    "kubectl create secret generic": ({"namespace", "from-literal"}, create_generic_secret),
    "kubectl create secret tls": ({"namespace", "cert", "key"}, create_tls_secret),
    "kubectl get ingress": ({"namespace"}, get_ingress),
    "kubectl apply": ({"namespace", "f"}, apply),
    "kubectl rollout status": ({"namespace"}, rollout_status),
    "kubectl set image": ({"namespace"}, set_image),
    "terraform init": (set(), init_terraform),
    "terraform apply": ({"target"}, apply_terraform),
    "terraform output": ({"raw"}, output_of_terraform),
}
"""By the command's words, from the programs' references: its flags that the pages use, and what it does."""
NOTHING: Final[dict[str, Any]] = {
    **{
        name: []
        for name in (
            "registries",
            "signed_in",
            "accounts",
            "pushed",
            "apis",
            "roles",
            "initialized",
            "builds",
        )
    },
    **{
        name: {}
        for name in ("built", "secrets", "values", "services", "namespaces", "pools", "parameters", "stacks")
    },
    "project": "",
    "address": "",
}
"""A new project, and a new cluster."""


def act(state: dict[str, Any], words: list[str], *, folder: Path, stdin: str) -> None:
    """Run one command line in a directory, the program's name first. Raises Refused."""
    if words[:2] == ["kubectl", "--namespace"]:
        words = ["kubectl", *words[3:], *words[1:3]]
    line = " ".join(words)
    command = next((one for one in COMMANDS if f"{line} ".startswith(f"{one} ")), None)
    if command is None:
        refuse(f"Invalid choice: {line!r}")
    flags, change = COMMANDS[command]
    change(state, Words(words[len(command.split()) :], flags, folder, stdin))
