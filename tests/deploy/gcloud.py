"""Plays `gcloud run` for a pipeline under test: keeps revisions, tags and traffic in the file FAKE_CLOUD.

Rules: a flag or a command that the real one does not have is refused with exit 2, as the real one does; the first
deploy of a service cannot be without traffic; `--no-traffic` pins the traffic to the revisions that have it. The real
answers are Knative's JSON, and so are these.
"""

# ruff: noqa: E501 - tables read in rows
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

ANY_COMMAND: Final = {
    "project",
    "quiet",
    "format",
    "verbosity",
    "account",
    "configuration",
    "impersonate-service-account",
}
FLAGS: Final[dict[tuple[str, ...], set[str]]] = {
    ("run", "deploy"): {
        "region", "image", "no-traffic", "tag", "timeout", "concurrency", "cpu", "memory", "min-instances", "max-instances",
        "no-cpu-throttling", "cpu-throttling", "set-env-vars", "update-env-vars", "remove-env-vars", "env-vars-file",
        "set-secrets", "update-secrets", "service-account", "allow-unauthenticated", "no-allow-unauthenticated", "port",
        "ingress", "execution-environment", "session-affinity", "no-session-affinity", "use-http2", "no-use-http2", "args",
        "command", "labels", "revision-suffix", "vpc-connector", "network", "subnet", "async", "platform",
    },
    ("run", "services", "describe"): {"region", "platform"},
    ("run", "services", "update-traffic"): {
        "region", "to-tags", "to-revisions", "to-latest", "update-tags", "set-tags", "remove-tags", "clear-tags", "async",
        "platform",
    },
    ("auth", "configure-docker"): set(),
}  # fmt: skip
SWITCHES: Final = {"quiet", "no-traffic", "to-latest", "async", "no-cpu-throttling", "cpu-throttling", "use-http2",
                   "no-use-http2", "session-affinity", "no-session-affinity", "allow-unauthenticated",
                   "no-allow-unauthenticated", "clear-tags"}  # fmt: skip


def fail(message: str) -> None:
    """As gcloud: on stderr, exit 2."""
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    sys.exit(2)


def parsed(words: list[str]) -> tuple[tuple[str, ...], list[str], dict[str, str]]:
    """The command, its names and its flags; the last value of a flag counts."""
    command = next((known for known in FLAGS if tuple(words[: len(known)]) == known), None)
    if command is None:
        fail(f"Invalid choice: {' '.join(words[:3])!r}")
    assert command is not None
    names: list[str] = []
    flags: dict[str, str] = {}
    rest = words[len(command) :]
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            names.append(word)
            continue
        name, has_value, value = word[2:].partition("=")
        if name not in FLAGS[command] | ANY_COMMAND:
            fail(f"unrecognized arguments: {word}")
        if not has_value and name not in SWITCHES:
            if not rest:
                fail(f"argument --{name}: expected one argument")
            value = rest.pop(0)
        flags[name] = value
    return command, names, flags


class Service:
    """One service of the state; every change is an event."""

    def __init__(self, state: dict[str, Any], name: str) -> None:
        self.state = state
        self.name = name
        self.body = state["services"].get(name)

    def deploy(self, flags: dict[str, str]) -> None:
        """A new revision; it gets the traffic that follows the latest one, unless there is to be none."""
        if self.body is None:
            if "no-traffic" in flags:
                fail("--no-traffic not supported when creating a new service.")
            self.body = self.state["services"][self.name] = {"revisions": [], "traffic": []}
        number = len(self.body["revisions"]) + 1
        revision = f"{self.name}-{number:05d}-abc"
        self.body["revisions"].append({"name": revision, "image": flags["image"]})
        traffic = self.body["traffic"]
        for target in traffic:
            if target.pop("latest", False) and "no-traffic" not in flags:
                target.update(revision=revision, latest=True)
        if not traffic:
            traffic.append({"revision": revision, "percent": 100, "latest": True})
        if "tag" in flags:
            self.tag(flags["tag"], revision)
        self.record("deploy", revision=revision, image=flags["image"])

    def tag(self, tag: str, revision: str) -> None:
        """Move a tag."""
        self.body["traffic"] = [target for target in self.body["traffic"] if target.get("tag") != tag]
        self.body["traffic"].append({"revision": revision, "percent": 0, "tag": tag})

    def shift(self, flags: dict[str, str]) -> None:
        """`--to-tags` and `--to-revisions`: the rest is left to those that have traffic, in proportion."""
        if len([name for name in ("to-tags", "to-revisions", "to-latest") if name in flags]) > 1:
            fail("only one of --to-latest, --to-revisions, --to-tags can be given")
        tags = {target["tag"]: target["revision"] for target in self.body["traffic"] if "tag" in target}
        known = {revision["name"] for revision in self.body["revisions"]}
        wanted: dict[str, int] = {}
        for pair in (flags.get("to-tags") or flags.get("to-revisions") or "").split(","):
            name, _, percent = pair.partition("=")
            revision = tags.get(name, "") if "to-tags" in flags else name
            if revision not in known:
                fail(f"{name}: no such tag or revision")
            wanted[revision] = int(percent)
        shares = self.shares()
        others = {name: share for name, share in shares.items() if name not in wanted}
        left, whole = 100 - sum(wanted.values()), sum(others.values())
        if left < 0 or (left and not whole):
            fail("Over 100% of traffic is specified." if left < 0 else "traffic must sum to 100")
        spread = {name: left * share // whole for name, share in others.items() if left}
        traffic = [
            {"revision": name, "percent": share} for name, share in {**wanted, **spread}.items() if share
        ]
        self.body["traffic"] = traffic + [
            {"revision": revision, "percent": 0, "tag": tag} for tag, revision in tags.items()
        ]
        self.record("traffic")

    def shares(self) -> dict[str, int]:
        """Per cent by revision."""
        found: dict[str, int] = {}
        for target in self.body["traffic"]:
            found[target["revision"]] = found.get(target["revision"], 0) + target["percent"]
        return {name: share for name, share in found.items() if share}

    def record(self, event: str, **more: object) -> None:
        """Note what happened, with the traffic as it is now."""
        self.state["events"].append({"event": event, "traffic": self.shares(), **more})

    def described(self) -> dict[str, Any]:
        """The service in Knative's form."""
        urls = self.state["urls"]
        targets = []
        for target in self.body["traffic"]:
            entry = {"revisionName": target["revision"]}
            if target["percent"]:
                entry["percent"] = target["percent"]
            if target.get("latest"):
                entry["latestRevision"] = True
            if "tag" in target:
                entry |= {"tag": target["tag"], "url": urls["tags"][target["tag"]]}
            targets.append(entry)
        return {"metadata": {"name": self.name}, "status": {"url": urls["service"], "traffic": targets}}


def main(words: list[str]) -> None:
    """Run one command line."""
    command, names, flags = parsed(words)
    if command == ("auth", "configure-docker"):
        return
    if len(names) != 1 or "region" not in flags:
        fail("SERVICE and --region are required")
    path = Path(os.environ["FAKE_CLOUD"])
    state = json.loads(path.read_text())
    service = Service(state, names[0])
    if command == ("run", "deploy"):
        service.deploy(flags)
    elif service.body is None:
        fail(f"Cannot find service [{names[0]}]")
    elif command == ("run", "services", "describe"):
        print(json.dumps(service.described(), indent=2))
    else:
        service.shift(flags)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
