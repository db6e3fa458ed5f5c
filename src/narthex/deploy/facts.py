"""Facts that a manifest states, with the place of each, and the findings about them.

Not here: reading manifests (`readers`), judging them (`rules`). Rules: a fact that the manifest leaves to the
platform carries the platform's default and `written=False`; None: there is no such limit, or it is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Place(NamedTuple):
    """A file and its line; 0: the whole file."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Fact(NamedTuple, Generic[T]):
    """A value and where it is written.

    Attributes:
        value: in seconds, bytes or as it is.
        place: of the value; of the surrounding block where it is the platform's default.
        written: whether the manifest says so.
    """

    value: T
    place: Place
    written: bool = True

    def converted(self, convert: Callable[[T], U | None]) -> Fact[U] | None:
        """The fact with its value converted; None where `convert` knows no such value."""
        value = convert(self.value)
        return None if value is None else Fact(value, self.place, self.written)


class Repeat(NamedTuple):
    """A name that is given twice: the later value counts."""

    name: str
    first: Fact[str]
    last: Fact[str]


@dataclass(kw_only=True)
class Workload:
    """Something that runs the gateway: a service, a deployment, a unit.

    Attributes:
        variables: environment; None as value: it comes from a secret or another source.
        words: command line after the program's name.
        grace_s: from SIGTERM to SIGKILL.
        prestop_s: part of the grace that passes before SIGTERM.
        request_timeout_s: longest life of a request, and so of a socket.
        concurrency: requests, and so sockets, of one instance.
        cpu_throttled: whether the CPU is taken away between requests.
        overlaps: whether an update runs the old and the new instance side by side.
        count: number of instances that each update of the manifest sets, with the name under which it is written.
        autoscaler: name of the autoscaler that sets the number of instances too.
        repeats: names that are given twice.
    """

    platform: str
    name: str
    place: Place
    variables: dict[str, Fact[str | None]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    grace_s: Fact[float] | None = None
    prestop_s: float = 0.0
    request_timeout_s: Fact[float] | None = None
    concurrency: Fact[int] | None = None
    memory_bytes: Fact[float] | None = None
    cpu_throttled: Fact[bool] | None = None
    min_instances: Fact[int] | None = None
    max_instances: Fact[int] | None = None
    overlaps: Fact[bool] | None = None
    count: Fact[str] | None = None
    autoscaler: str = ""
    affinity: Fact[bool] | None = None
    http2: Fact[bool] | None = None
    open_files: Fact[int] | None = None
    scaled_by: Fact[str] | None = None
    liveness: Fact[str] | None = None
    behind_proxy: bool = False
    repeats: list[Repeat] = field(default_factory=list)


@dataclass(kw_only=True)
class Hop:
    """A proxy or load balancer in front of the gateway.

    Attributes:
        idle_s: after this time without a byte it ends a socket.
        life_s: after this time it ends a socket whether it is used or not.
        upgrade: whether an upgrade reaches the gateway.
        http2: whether it speaks HTTP/2 only to the gateway.
        removal_s: from an instance's removal to its SIGTERM, during which its sockets stay.
        refused: a setting that the platform refuses for this kind of hop, with its name.
    """

    platform: str
    name: str
    place: Place
    idle_s: Fact[float] | None = None
    life_s: Fact[float] | None = None
    upgrade: Fact[bool] | None = None
    http2: Fact[bool] | None = None
    affinity: Fact[bool] | None = None
    removal_s: Fact[float] | None = None
    refused: Fact[str] | None = None
    repeats: list[Repeat] = field(default_factory=list)


class Autoscaler(NamedTuple):
    """It sets the number of instances of the workload called `target`, by `metrics`; `name` is for people."""

    name: str
    target: str
    max_instances: Fact[int] | None
    metrics: Fact[str]


@dataclass
class Manifest:
    """The workloads and hops of all files that were read."""

    workloads: list[Workload] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)
    autoscalers: list[Autoscaler] = field(default_factory=list)

    def extend(self, other: Manifest) -> None:
        """Add what another file says."""
        self.workloads += other.workloads
        self.hops += other.hops
        self.autoscalers += other.autoscalers

    def scale(self) -> None:
        """Give each workload the bounds of its autoscaler, which may be in another file."""
        for scaler in self.autoscalers:
            for workload in self.workloads:
                if workload.name == scaler.target:
                    workload.max_instances = scaler.max_instances or workload.max_instances
                    workload.scaled_by = scaler.metrics
                    workload.autoscaler = scaler.name


class ManifestFinding(NamedTuple):
    """One disagreement.

    Attributes:
        code: snake_case, for scripts.
        severity: an error fails the check.
        message: what the manifest says, in one sentence.
        consequence: what happens because of it.
        remedy: what to write instead.
    """

    code: str
    severity: Literal["error", "warning"]
    place: Place
    message: str
    consequence: str
    remedy: str
