"""The rules: where a manifest and the settings disagree, or a platform's trap is still open.

Not here: reading manifests (`readers`), deriving what is needed (`demands`). Rules: a rule yields findings and reads
nothing but its arguments; a fact that is None is not checked; an error is something that users will meet, a
warning something that they may.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from narthex.deploy.demands import LONGEST_REQUEST_S, MOST_CONCURRENT, SOCKET_BYTES, Demands, demands_of
from narthex.deploy.environment import inline_secrets
from narthex.deploy.facts import Fact, Hop, ManifestFinding, Repeat, Workload
from narthex.deploy.quantities import mebibytes, whole
from narthex.settings import Settings

LONGEST_REMOVAL_S: Final = 60.0
NOT_ALIVE: Final = ("/readyz", "/ws/health", "/health")
TEMPORARY: Final = ("cloud-run", "aws")
"""Platforms whose instances have no disk that outlives them."""


def check_workload(workload: Workload) -> Iterator[ManifestFinding]:
    """Every finding about a workload that needs no settings."""
    yield from _repeats(workload.repeats)
    yield from _cpu(workload)
    yield from _count(workload)
    yield from _http2(workload)
    yield from _affinity(workload)
    yield from _liveness(workload)
    yield from _secrets(workload)


def check_agreement(workload: Workload, settings: Settings) -> Iterator[ManifestFinding]:
    """Every finding about a workload whose manifest and settings disagree."""
    demands = demands_of(settings)
    if workload.concurrency is not None:
        demands = demands.within(workload.concurrency.value)
    yield from _request_timeout(workload, demands)
    yield from _grace(workload, demands)
    yield from _concurrency(workload, settings, demands)
    yield from _memory(workload, demands)
    yield from _open_files(workload, demands)
    yield from _instances(workload, demands)
    yield from _addresses(workload, settings)


def check_hop(hop: Hop, demands: Demands) -> Iterator[ManifestFinding]:
    """Every finding about a proxy or a load balancer."""
    yield from _repeats(hop.repeats)
    if hop.refused is not None:
        yield ManifestFinding(
            "backend_timeout_refused",
            "error",
            hop.refused.place,
            f"{hop.name} sets a back-end time-out of {hop.refused.value} for a serverless group.",
            "Google refuses a time-out for serverless network endpoint groups, and the deploy fails.",
            "Remove it; the request time-out of Cloud Run is what ends a socket there.",
        )
    if hop.upgrade is not None and not hop.upgrade.value:
        yield ManifestFinding(
            "upgrade_not_passed",
            "error",
            hop.upgrade.place,
            f"{hop.platform} does not pass the upgrade to {hop.name or 'the gateway'}.",
            "Every WebSocket handshake fails: the gateway sees a plain request and answers 426.",
            f"See the rendered configuration: narthex deploy render --platform {_renderable(hop)}.",
        )
    if hop.idle_s is not None and hop.idle_s.value < demands.idle_s:
        yield ManifestFinding(
            "idle_timeout",
            "error",
            hop.idle_s.place,
            f"{hop.platform} ends a connection after {_seconds(hop.idle_s)} without a byte, and the gateway pings "
            f"every {demands.ping_interval_s:g} s.",
            "Quiet sockets are cut without a close frame, and users see reconnects.",
            f"Raise it to {demands.idle_s:g} s at least; {LONGEST_REQUEST_S} s is common."
            if hop.platform != "aws"
            else f"Set it to {demands.alb_idle_s} s.",
        )
    if hop.platform == "aws" and hop.idle_s is not None and hop.idle_s.value >= demands.limits.keep_alive_s:
        yield ManifestFinding(
            "keep_alive",
            "warning",
            hop.idle_s.place,
            f"{hop.name} keeps idle connections to the gateway for {_seconds(hop.idle_s)}, and the gateway closes them "
            f"after {demands.limits.keep_alive_s} s.",
            "A request that is sent while the gateway closes the connection is answered with 502, now and then.",
            f"Set idle_timeout.timeout_seconds to {demands.alb_idle_s}: the gateway pings every "
            f"{demands.ping_interval_s:g} s, so that no socket is silent for so long.",
        )
    if hop.removal_s is not None and hop.removal_s.value > max(LONGEST_REMOVAL_S, demands.grace_s):
        yield ManifestFinding(
            "removal_delay",
            "warning",
            hop.removal_s.place,
            f"An instance that is to end is removed from {hop.name} up to {_seconds(hop.removal_s)} before its "
            "SIGTERM.",
            "Its sockets stay open until then, so that each deploy takes so much longer; then the load balancer cuts "
            "them without a close frame, before the drain begins.",
            f"Set deregistration_delay.timeout_seconds to {demands.grace_s}: the time of a drain that `narthex drain` "
            "asks for before SIGTERM (docs/deploy.md#platforms).",
        )
    if hop.life_s is not None and demands.longest_socket_s > hop.life_s.value:
        yield _life("backend_timeout", hop.life_s, f"{hop.platform} {hop.name}".strip(), demands)
    yield from _http2(hop)
    yield from _affinity(hop)


def _renderable(hop: Hop) -> str:
    return "nginx" if hop.platform == "kubernetes" else hop.platform


def _seconds(fact: Fact[float]) -> str:
    said = f"{fact.value:g} s"
    return said if fact.written else f"{said} (the default)"


def _life(code: str, limit: Fact[float], who: str, demands: Demands) -> ManifestFinding:
    age = (
        f"rotates sockets at {demands.socket_life_s:g} s, a busy one up to {demands.longest_socket_s:g} s"
        if demands.socket_life_s
        else "rotates none (NARTHEX_MAX_SOCKET_LIFE_S is 0)"
    )
    longest = max(1, math.floor((limit.value - 60) / 1.05 / 10) * 10)
    lower = (
        f"set NARTHEX_MAX_SOCKET_LIFE_S={longest}"
        if limit.value > 120
        else "sockets that live for so short a time are no use"
    )
    return ManifestFinding(
        code,
        "error",
        limit.place,
        f"{who} ends every socket after {_seconds(limit)}, used or not, and the gateway {age}.",
        "All sockets are cut in the middle of what they do, without a close frame.",
        f"Raise the limit to {LONGEST_REQUEST_S} s, or {lower}.",
    )


def _repeats(repeats: list[Repeat]) -> Iterator[ManifestFinding]:
    for repeat in repeats:
        same = repeat.first.value == repeat.last.value
        yield ManifestFinding(
            "overridden",
            "warning" if same else "error",
            repeat.last.place,
            f"{repeat.name} is given twice: {_shown(repeat.first)} on line {repeat.first.place.line}, then "
            f"{_shown(repeat.last)}.",
            "The later value counts, whatever the first one says.",
            "Keep one of them.",
        )


def _shown(fact: Fact[str]) -> str:
    return repr(fact.value[:60]) if fact.value else "a value"


def _request_timeout(workload: Workload, demands: Demands) -> Iterator[ManifestFinding]:
    limit = workload.request_timeout_s
    if limit is not None and demands.longest_socket_s > limit.value:
        yield _life("request_timeout", limit, "Cloud Run", demands)


def _grace(workload: Workload, demands: Demands) -> Iterator[ManifestFinding]:
    grace = workload.grace_s
    needed = workload.prestop_s + demands.drain_s
    if grace is not None and grace.value < needed:
        before = f" after {workload.prestop_s:g} s of preStop" if workload.prestop_s else ""
        yield ManifestFinding(
            "grace",
            "error",
            grace.place,
            f"The platform kills the process {_seconds(grace)} after it asks for the end, and the drain takes up to "
            f"{demands.drain_s:g} s{before}.",
            "Runs and sockets that are still open are lost without a close frame.",
            f"Raise the grace to {math.ceil(needed) + 5} s, or lower NARTHEX_DRAIN_GRACE_S."
            if workload.platform != "cloud-run"
            else f"Set NARTHEX_DRAIN_GRACE_S to {grace.value:g} at most: Cloud Run gives no more.",
        )


def _concurrency(workload: Workload, settings: Settings, demands: Demands) -> Iterator[ManifestFinding]:
    limit = workload.concurrency
    if limit is None:
        return
    most = settings.max_connections * demands.workers
    if limit.value > MOST_CONCURRENT:
        yield ManifestFinding(
            "concurrency",
            "error",
            limit.place,
            f"The concurrency is {limit.value}.",
            f"Cloud Run refuses more than {MOST_CONCURRENT}, and the deploy fails.",
            f"Set it to {MOST_CONCURRENT}.",
        )
    elif limit.value > most:
        yield ManifestFinding(
            "concurrency",
            "error",
            limit.place,
            f"The platform gives an instance up to {limit.value} connections, and it takes {most} "
            "(NARTHEX_MAX_CONNECTIONS).",
            "The rest is refused with 503 `overloaded` while the platform sees no reason for another instance.",
            f"Set the concurrency to {most} at most.",
        )
    elif not limit.written:
        yield ManifestFinding(
            "concurrency",
            "warning",
            limit.place,
            f"The concurrency is not set: an instance takes {limit.value} sockets.",
            "Each socket counts as a request for as long as it is open, so that many instances are paid for.",
            f"Set it to {MOST_CONCURRENT}.",
        )


def _memory(workload: Workload, demands: Demands) -> Iterator[ManifestFinding]:
    limit = workload.memory_bytes
    if limit is None or limit.value >= demands.memory_bytes:
        return
    sockets = max(0, int((limit.value - demands.memory_bytes) / SOCKET_BYTES) + demands.sockets_of_instance)
    yield ManifestFinding(
        "memory",
        "error",
        limit.place,
        f"The limit is {mebibytes(limit.value)}, and {demands.sockets_of_instance:,} sockets in {demands.workers} "
        f"process{'es' if demands.workers > 1 else ''} need {mebibytes(demands.memory_bytes)}.",
        "The kernel kills the process when it is full, and every socket with it.",
        f"Raise it to {demands.memory_mib} MiB"
        + (f", or set NARTHEX_MAX_CONNECTIONS to {sockets // demands.workers}." if sockets else "."),
    )


def _open_files(workload: Workload, demands: Demands) -> Iterator[ManifestFinding]:
    limit = workload.open_files
    if limit is not None and limit.value < demands.open_files:
        yield ManifestFinding(
            "open_files",
            "error",
            limit.place,
            f"A process may open {limit.value:,} files, and {demands.sockets:,} connections need "
            f"{demands.open_files:,}.",
            "narthex lowers its limit of connections to what fits, and refuses the rest with 503 `overloaded`.",
            f"Raise the limit to {demands.open_files:,}, or lower NARTHEX_MAX_CONNECTIONS.",
        )


def _instances(workload: Workload, demands: Demands) -> Iterator[ManifestFinding]:
    most = workload.max_instances
    unknown = "*" in workload.variables and not demands.shared
    if demands.shared or most is None:
        return
    if most.value > 1:
        yield ManifestFinding(
            "embedded_engines",
            "warning" if unknown else "error",
            most.place,
            f"Up to {most.value} instances run, and NARTHEX_BROKER_URL and NARTHEX_STORE_URL are "
            "not both set.",
            "Each instance has SQLite files of its own: users of two instances do not see each other's messages.",
            "Set both URLs, or allow one instance.",
        )
    elif unknown:
        return
    elif workload.platform in TEMPORARY:
        yield ManifestFinding(
            "embedded_engines",
            "warning",
            (workload.overlaps or most).place,
            "The data are in SQLite files on the disk of the one instance.",
            "The files end with the instance: every deploy and every restart begins with empty threads.",
            "Set NARTHEX_BROKER_URL and NARTHEX_STORE_URL.",
        )
    elif workload.overlaps is not None and workload.overlaps.value:
        yield ManifestFinding(
            "embedded_engines",
            "warning",
            workload.overlaps.place,
            "The data are in SQLite files of the one instance, and an update starts the new one beside the old one.",
            "Two processes have the files open, or the new one waits for the volume for ever.",
            "Set NARTHEX_BROKER_URL and NARTHEX_STORE_URL, or strategy: Recreate.",
        )


def _cpu(workload: Workload) -> Iterator[ManifestFinding]:
    throttled = workload.cpu_throttled
    if throttled is not None and throttled.value:
        yield ManifestFinding(
            "cpu_throttled",
            "error",
            throttled.place,
            "The CPU is allocated only while a request is served.",
            "Runs whose user has left, leases, key refreshes and the drain stand still between requests.",
            "Allocate it always: --no-cpu-throttling, cpu-throttling: 'false', or cpu_idle = false.",
        )
    scaled = workload.scaled_by
    if scaled is not None and scaled.value == "cpu":
        yield ManifestFinding(
            "scaled_by_cpu",
            "warning",
            scaled.place,
            "The autoscaler looks at CPU and memory only.",
            "Idle sockets cost no CPU: instances fill up to their limit of connections unnoticed.",
            "Scale on narthex_connections_active (deploy/kubernetes/autoscaler.yaml).",
        )


def _count(workload: Workload) -> Iterator[ManifestFinding]:
    count, most = workload.count, workload.max_instances
    if count is None or not workload.autoscaler:
        return
    number = whole(count.value.rpartition(" ")[2])
    if number is None or most is None or number < most.value:  # else the autoscaler has none to add
        yield ManifestFinding(
            "count_reset",
            "warning",
            count.place,
            f"{count.value} is set, and {workload.autoscaler} sets the number of instances too.",
            "Each update of the manifest sets the number back: instances that the autoscaler had added are ended, with "
            "all their sockets, until it adds them again.",
            "Remove it, and set the autoscaler's minimum instead"
            + (
                f"; first by `kubectl apply edit-last-applied deployment/{workload.name}`, because otherwise the next "
                "apply sets 1 once."
                if workload.platform == "kubernetes"
                else "."
            ),
        )


def _http2(target: Workload | Hop) -> Iterator[ManifestFinding]:
    if target.http2 is not None and target.http2.value:
        yield ManifestFinding(
            "http2_end_to_end",
            "error",
            target.http2.place,
            "HTTP/2 is spoken to the gateway.",
            "WebSocket upgrades are HTTP/1.1: every handshake fails before it reaches the gateway.",
            "Speak HTTP/1.1 to the gateway; clients may still use HTTP/2 up to the proxy.",
        )


def _affinity(target: Workload | Hop) -> Iterator[ManifestFinding]:
    if target.affinity is not None and target.affinity.value:
        yield ManifestFinding(
            "affinity",
            "warning",
            target.affinity.place,
            "Session affinity is on.",
            "Nothing needs it: any instance resumes any socket. It keeps users on full and on draining instances.",
            "Switch it off.",
        )


def _liveness(workload: Workload) -> Iterator[ManifestFinding]:
    path = workload.liveness
    if path is not None and path.value in NOT_ALIVE:
        yield ManifestFinding(
            "liveness",
            "error",
            path.place,
            f"The liveness probe asks {path.value}, which fails while an engine is away or the instance drains.",
            "An outage of a few seconds restarts every instance at once and closes all sockets.",
            "Ask /livez; /readyz is for readiness.",
        )


def _secrets(workload: Workload) -> Iterator[ManifestFinding]:
    for name, fact in inline_secrets(workload):
        yield ManifestFinding(
            "secret_inline",
            "error",
            fact.place,
            f"The value of {name} is written into the manifest.",
            "Every reader of the repository, the image's history or the service's description has it.",
            "Take it from the platform's secrets, or from a file by the variable with _FILE at the end.",
        )


def _addresses(workload: Workload, settings: Settings) -> Iterator[ManifestFinding]:
    remote = settings.policy.environment.remote
    trusted = workload.variables.get("NARTHEX_TRUSTED_PROXIES") or workload.variables.get("*")
    unknown = trusted is not None and trusted.value is None
    if workload.behind_proxy and remote and settings.proxies.none and not unknown:
        yield ManifestFinding(
            "proxies_not_trusted",
            "warning",
            workload.place,
            "NARTHEX_TRUSTED_PROXIES is not set.",
            "Behind a proxy all users have its address and share the limit of "
            f"{settings.max_connections_per_address:,} connections an address.",
            "Set it to the proxy's network, or to the number of proxies in front (1).",
        )
