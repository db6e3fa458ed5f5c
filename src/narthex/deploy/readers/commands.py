"""`gcloud` commands in shell scripts, GitHub workflows and Cloud Build files.

Rules: the last value of a flag counts, as for gcloud itself, and an earlier one is a repeat; a value with a shell
variable is not known.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from narthex.deploy import quantities
from narthex.deploy.documents import Tree, read_yaml
from narthex.deploy.facts import Fact, Hop, Manifest, Place, Repeat, Workload
from narthex.deploy.readers.cloud_run import with_defaults

SWITCHES: Final = {
    "cpu-throttling",
    "use-http2",
    "session-affinity",
    "traffic",
    "allow-unauthenticated",
    "cpu-boost",
}
"""Flags without a value, each also with `no-`. `--session-affinity` has a value for a back-end service."""
Words = list[tuple[str, Place]]


def read(text: str, file: str) -> Manifest:
    """Every service that the file's commands deploy, and every back-end service that they make."""
    found = Manifest()
    for words in _commands(text, file):
        plain = [word for word, _ in words]
        if plain[:3] in (["gcloud", "run", "deploy"], ["gcloud", "run", "services"]):
            rest = words[3:] if plain[2] == "deploy" else words[4:]
            if plain[2] == "deploy" or plain[3:4] == ["update"]:
                found.workloads.append(_service(rest, words[0][1], update=plain[2] != "deploy"))
        elif plain[:3] == ["gcloud", "compute", "backend-services"] and plain[3:4] in (
            ["create"],
            ["update"],
        ):
            found.hops.append(_backend(words[4:], words[0][1], known=plain[3] == "create"))
    return found


def _commands(text: str, file: str) -> Iterator[Words]:
    if file.endswith((".yaml", ".yml", ".json")):
        for document in read_yaml(text, file):
            yield from _in_tree(document)
    else:
        yield from _in_shell(text, Place(file, 1))


def _in_tree(node: Tree) -> Iterator[Words]:
    if node.text and "gcloud" in node.text:
        # A block scalar's text begins on the line below its key.
        below = 1 if "\n" in node.text.rstrip("\n") else 0
        yield from _in_shell(node.text, Place(node.place.file, node.place.line + below))
    arguments = [(item.text, item.place) for item in node["args"].items if item.text]
    if [word for word, _ in arguments][:2] in (["run", "deploy"], ["compute", "backend-services"]):
        yield [("gcloud", node["args"].place), *arguments]
    elif arguments[:1] and arguments[0][0] == "gcloud":
        yield arguments
    for child in [*node.members.values(), *(node.value if isinstance(node.value, list) else [])]:
        yield from _in_tree(child)


def _in_shell(text: str, start: Place) -> Iterator[Words]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        words: Words = []
        while True:
            line = lines[number]
            going_on = line.rstrip().endswith("\\")
            try:
                parts = shlex.split(line.rstrip().removesuffix("\\"), comments=True)
            except ValueError:  # a quotation over several lines: not one of our commands
                parts = []
            words += [(part, Place(start.file, start.line + number)) for part in parts]
            number += 1
            if not going_on or number >= len(lines):
                break
        at = next((i for i, (word, _) in enumerate(words) if word == "gcloud"), None)
        if at is not None:
            yield words[at:]


class Flags:
    """The flags of one command, the last of each name, and the repeats."""

    def __init__(self, words: Words, switches: Sequence[str] = ()) -> None:
        self.found: dict[str, Fact[str]] = {}
        self.repeats: list[Repeat] = []
        self.names: list[tuple[str, Place]] = []
        position = 0
        while position < len(words):
            word, place = words[position]
            position += 1
            if not word.startswith("--"):
                self.names.append((word, place))
                continue
            name, has_value, value = word[2:].partition("=")
            positive = name.removeprefix("no-")
            if positive in switches and not has_value:
                self._put(positive, "false" if name.startswith("no-") else "true", place)
                continue
            if not has_value and position < len(words) and not words[position][0].startswith("--"):
                value = words[position][0]
                position += 1
            self._put(name, value, place)

    def _put(self, name: str, value: str, place: Place) -> None:
        fact = Fact(value, place)
        if name in self.found:
            self.repeats.append(Repeat(f"--{name}", self.found[name], fact))
        self.found[name] = fact

    def text(self, name: str) -> Fact[str] | None:
        """A flag's value, if it is known."""
        fact = self.found.get(name)
        return fact if fact is not None and "$" not in fact.value else None

    def number(self, name: str) -> Fact[int] | None:
        """A whole number."""
        fact = self.text(name)
        return fact.converted(quantities.whole) if fact else None

    def duration(self, name: str) -> Fact[float] | None:
        """Seconds."""
        fact = self.text(name)
        return fact.converted(quantities.seconds) if fact else None

    def flag(self, name: str) -> Fact[bool] | None:
        """A switch."""
        fact = self.text(name)
        return fact.converted(lambda text: text == "true") if fact else None


def _service(words: Words, place: Place, *, update: bool) -> Workload:
    flags = Flags(words, tuple(SWITCHES))
    workload = Workload(platform="cloud-run", name=flags.names[0][0] if flags.names else "", place=place)
    workload.repeats += flags.repeats
    workload.request_timeout_s = flags.duration("timeout")
    workload.concurrency = flags.number("concurrency")
    workload.min_instances = flags.number("min-instances")
    workload.max_instances = flags.number("max-instances")
    workload.cpu_throttled = flags.flag("cpu-throttling")
    workload.affinity = flags.flag("session-affinity")
    workload.http2 = flags.flag("use-http2")
    if (memory := flags.text("memory")) is not None:
        workload.memory_bytes = memory.converted(quantities.size)
    for name, secret in (
        ("set-env-vars", False),
        ("update-env-vars", False),
        ("set-secrets", True),
        ("update-secrets", True),
    ):
        if (given := flags.found.get(name)) is not None:
            for variable, value in _pairs(given.value):
                known = None if secret or "$" in value else value
                workload.variables[variable] = Fact(known, given.place)
    if "set-env-vars" not in flags.found:
        # The service keeps the variables that it has: this command alone does not say which.
        workload.variables["*"] = Fact(None, place)
    if (args := flags.text("args")) is not None:
        workload.words = tuple(args.value.split(","))
    # Without traffic, or by `update`: the service is there, and keeps what this command does not say.
    exists = flags.flag("traffic") is not None and flags.found["traffic"].value == "false"
    return workload if exists or update else with_defaults(workload)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`A=1,B=2`, or `^;^A=1;B=2` with another separator."""
    separator = ","
    if (found := re.match(r"\^(.+?)\^", text)) is not None:
        separator, text = found[1], text[found.end() :]
    for pair in text.split(separator):
        name, has_value, value = pair.partition("=")
        if has_value:
            yield name.strip(), value


def _backend(words: Words, place: Place, *, known: bool) -> Hop:
    flags = Flags(words, ("global", "enable-logging", "enable-cdn"))
    hop = Hop(platform="alb", name=flags.names[0][0] if flags.names else "", place=place)
    hop.repeats += flags.repeats
    given = flags.duration("timeout")
    hop.life_s = given or (None if not known or _serverless(flags) else Fact(30.0, place, written=False))
    protocol = flags.text("protocol")
    if protocol is not None:
        hop.http2 = Fact(protocol.value.upper() in ("HTTP2", "H2C", "GRPC"), protocol.place)
    affinity = flags.text("session-affinity")
    if affinity is not None:
        hop.affinity = Fact(affinity.value.upper() != "NONE", affinity.place)
    if given is not None and _serverless(flags):
        hop.refused, hop.life_s = flags.found["timeout"], None
    return hop


def _serverless(flags: Flags) -> bool:
    """Back ends of a serverless group have no protocol of their own: gcloud is given none."""
    return (
        "protocol" not in flags.found
        and "health-checks" not in flags.found
        and "port-name" not in flags.found
    )
