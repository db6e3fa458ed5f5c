"""The demands of settings on a platform, as one value: grace, time-outs, sockets, memory, open files, instances.

Not here: the form that a platform gives to it (`rendering`), whether a manifest meets it (`rules`). Rules: everything
is derived from `Settings`, so that two manifests of one deployment cannot disagree; figures of memory are those of
docs/performance.md with a reserve.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from narthex.domain.descriptors import capacity
from narthex.domain.limits import Limits
from narthex.errors import ConfigError
from narthex.settings import Settings

PROCESS_BYTES: Final = 160 * 2**20  # measured 75 MB with the adapters loaded; caches and an agent beside it
SOCKET_BYTES: Final = (
    16 * 2**10
)  # measured 5.1 kB of the process; the kernel's buffers count in a container too
ENDING_S: Final = 5.0  # from the end of the drain to the end of the process, with some reserve
PRESTOP_S: Final = 5.0  # endpoints are removed while the gateway still serves
BUSY_S: Final = 60.0  # a socket with a run in progress is rotated up to this much later (docs/scaling.md)
LIFE_JITTER: Final = 1.05
LONGEST_REQUEST_S: Final = 3600  # Cloud Run's maximum
MOST_CONCURRENT: Final = 1000  # Cloud Run's maximum
CLOUD_RUN_GRACE_S: Final = 10.0
CLOUD_RUN_LIFE_S: Final = 3300.0
IDLE_ALB_S: Final = 60  # the default of AWS's Application Load Balancer
LONGEST_IDLE_ALB_S: Final = 4000  # its maximum
FARGATE_GRACE_S: Final = 120.0  # its maximum
FARGATE_MEMORY_MIB: Final = {
    1: (1024, 8192), 2: (1024, 16_384), 4: (1024, 30_720), 8: (4096, 61_440), 16: (8192, 122_880),
}  # fmt: skip
"""Processors of a task on Fargate → the steps and the maximum of its memory, which begins at two GiB for each."""


class Demands(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds, sizes in bytes, per instance unless it says otherwise.

    Attributes:
        drain_s: from SIGTERM to the end of the process.
        socket_life_s: age at which the gateway rotates a socket; 0: never.
        ping_interval_s: a socket is never silent for longer than this.
        idle_s: shortest idle time-out that a hop may have.
        sockets: connections of one process.
        workers: processes of one instance.
        shared: whether broker and store are engines that several instances share.
        runs_agents: whether agents run in the gateway.
    """

    drain_s: float
    socket_life_s: float
    ping_interval_s: float
    idle_s: float
    limits: Limits
    sockets: int
    workers: int
    shared: bool
    runs_agents: bool

    @property
    def sockets_of_instance(self) -> int:
        """Connections of all processes of one instance."""
        return self.sockets * self.workers

    @property
    def grace_s(self) -> int:
        """From SIGTERM to SIGKILL, where the platform lets one choose."""
        return math.ceil(self.drain_s + ENDING_S)

    @property
    def alb_idle_s(self) -> int:
        """Idle time-out of AWS's load balancer: above the pings, and below the time that the gateway keeps idle HTTP
        connections (`Limits.keep_alive_s`), because the load balancer uses them again for its other clients.
        """
        return min(LONGEST_IDLE_ALB_S, max(IDLE_ALB_S, int(self.idle_s)))

    @property
    def longest_socket_s(self) -> float:
        """The age that a socket may reach; infinite when none is rotated."""
        return self.socket_life_s * LIFE_JITTER + BUSY_S if self.socket_life_s else math.inf

    @property
    def open_files(self) -> int:
        """Descriptors of one process, so that no limit of connections is lowered."""
        low, high = self.sockets, 4 * self.sockets + 8192
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if capacity(self._wanted, middle).lowered else (low, middle)
        return low

    @property
    def _wanted(self) -> Limits:
        return msgspec.structs.replace(self.limits, max_connections=self.sockets)

    @property
    def memory_bytes(self) -> int:
        """Memory of one instance with all its sockets in use."""
        return self.workers * PROCESS_BYTES + self.sockets_of_instance * SOCKET_BYTES

    @property
    def memory_mib(self) -> int:
        """The same in steps that platforms sell."""
        return max(512, math.ceil(self.memory_bytes / 2**20 / 256) * 256)

    def within(self, concurrency: int) -> Demands:
        """The same where the platform gives one instance at most so many connections."""
        most = max(1, math.ceil(concurrency / self.workers))
        return msgspec.structs.replace(self, sockets=min(self.sockets, most))

    def for_fargate(self) -> Demands:
        """The same on AWS Fargate, whose longest grace is fixed."""
        return msgspec.structs.replace(self, drain_s=min(self.drain_s, FARGATE_GRACE_S - ENDING_S))

    def for_cloud_run(self) -> Demands:
        """The same on Cloud Run, whose grace and longest request are fixed."""
        life = min(self.socket_life_s or CLOUD_RUN_LIFE_S, CLOUD_RUN_LIFE_S)
        return msgspec.structs.replace(self, socket_life_s=life).within(MOST_CONCURRENT)


def demands_of(settings: Settings) -> Demands:
    """Derive the demands of a gateway with these settings."""
    limits = settings.limits()
    return Demands(
        drain_s=settings.drain_grace_s,
        socket_life_s=settings.socket_life_s(),
        ping_interval_s=limits.ping_interval_s,
        idle_s=limits.silence_s,
        limits=limits,
        sockets=limits.max_connections,
        workers=settings.workers,
        shared=bool(settings.broker_url and settings.store_url),
        runs_agents=settings.run_agents,
    )


def fargate_size(workers: int, needed_mib: int) -> tuple[int, int]:
    """Processors and memory (MiB) of the smallest task on Fargate with these processes and this memory.

    Raises:
        ConfigError: no task is so large.
    """
    for cpus, (step, most) in FARGATE_MEMORY_MIB.items():
        least = 2048 * cpus
        memory = least + max(0, math.ceil((needed_mib - least) / step)) * step
        if cpus >= workers and memory <= most:
            return cpus, memory
    largest, (_, most) = max(FARGATE_MEMORY_MIB.items())
    detail = (
        f"{workers} processes with {needed_mib:,} MiB fit into no task of Fargate, whose largest has {largest} "
        f"processors and {most:,} MiB. Lower NARTHEX_WORKERS or NARTHEX_MAX_CONNECTIONS, and run more instances "
        "(--max-instances)."
    )
    raise ConfigError([detail])
