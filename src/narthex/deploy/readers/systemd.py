"""systemd units. Rule: a list option that is given twice adds, any other keeps the later value, as systemd does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial

from narthex.deploy import quantities
from narthex.deploy.facts import Fact, Manifest, Place, Repeat, Workload

ADDING = frozenset(
    {"Environment", "EnvironmentFile", "ExecStartPre", "ExecStartPost", "After", "Wants", "Requires", "Before",
     "WantedBy", "ListenStream", "ReadWritePaths", "LoadCredential", "SetCredential", "SystemCallFilter",
     "RestrictAddressFamilies", "Documentation", "Conflicts", "BindsTo", "PartOf", "Also"}
)  # fmt: skip
STOP_S = 90.0  # DefaultTimeoutStopSec
OPEN_FILES = 524_288  # the hard limit that systemd sets; narthex raises its soft limit to it


def read(text: str, file: str) -> Manifest:
    """The service of the unit; a socket unit has none."""
    options: dict[str, list[Fact[str]]] = {}
    repeats: list[Repeat] = []
    for name, fact in _options(text, file):
        earlier = options.setdefault(name, [])
        if earlier and name not in ADDING:
            repeats.append(Repeat(name, earlier[-1], fact))
        earlier.append(fact)
    starts = options.get("ExecStart", [])
    if not starts:
        return Manifest()
    words = shlex.split(starts[-1].value)
    workload = Workload(platform="systemd", name=Place(file).file.rpartition("/")[2], place=starts[-1].place)
    workload.repeats += repeats
    workload.words = tuple(words[1:])
    workload.behind_proxy = True
    workload.max_instances = Fact(1, workload.place, written=False)
    for fact in options.get("Environment", []):
        for pair in shlex.split(fact.value):
            variable, _, value = pair.partition("=")
            if variable in workload.variables:
                before = workload.variables[variable]
                workload.repeats.append(
                    Repeat(variable, Fact(before.value or "", before.place), Fact(value, fact.place))
                )
            workload.variables[variable] = Fact(value, fact.place)
    for fact in options.get("EnvironmentFile", []):
        workload.variables.setdefault("*", Fact(None, fact.place))

    def last(*names: str) -> Fact[str] | None:
        return next((options[name][-1] for name in names if name in options), None)

    stop = last("TimeoutStopSec", "TimeoutSec")
    grace_s = stop.converted(quantities.seconds) if stop else None
    workload.grace_s = grace_s or Fact(STOP_S, workload.place, written=False)
    files = last("LimitNOFILE")
    hard = files.converted(lambda text: quantities.whole(text.rpartition(":")[2])) if files else None
    workload.open_files = hard or Fact(OPEN_FILES, workload.place, written=False)
    if (memory := last("MemoryMax", "MemoryLimit")) is not None:
        workload.memory_bytes = memory.converted(partial(quantities.size, binary=True))
    return Manifest([workload])


def _options(text: str, file: str) -> Iterator[tuple[str, Fact[str]]]:
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        start, line = number + 1, lines[number].strip()
        while line.endswith("\\") and number + 1 < len(lines):
            number += 1
            line = line[:-1].rstrip() + " " + lines[number].strip()
        number += 1
        name, has_value, value = line.partition("=")
        if has_value and not line.startswith(("#", ";", "[")):
            yield name.strip(), Fact(value.strip(), Place(file, start))
