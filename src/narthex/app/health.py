"""Health: named checks with a real request each, with a time-out, cached briefly, run once for any number of callers.

Not here: a check's work (the ports' `ping` and `check`, `adapters/edge/self_probe.py`), routes and status codes
(`web/health.py`).

Rules of docs/design.md#health: broker, store or handshake failing is `unhealthy`, auth or agents failing is `degraded`;
a check without an answer in time has failed, so nothing is healthy unasked. While starting or draining the
checks are not run, and the answer is `unhealthy`, which makes a load balancer stop sending traffic; the result of a
check that was under way then is no change of its status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from narthex.app.periodic import BackgroundTask
from narthex.domain.environment import EnvironmentPolicy
from narthex.domain.identity import PROBE_TENANT, Identity, IdentityClass
from narthex.domain.secrets import fingerprint
from narthex.errors import ENGINE_HUNG, DependencyError, NarthexError
from narthex.ports.agents import Agent
from narthex.ports.credentials import Credentials
from narthex.ports.telemetry import Meter
from narthex.ports.tokens import TokenVerifier

CHECK_TIMEOUT_S: Final = 2.0  # below every load balancer's probe time-out of 5 s
CACHE_S: Final = 2.0  # docs/design.md#health: a flood of health requests costs one round of checks per 2 s
UNASKED_S: Final = 15.0  # the age at which a result that no caller asks for is made anew, for the metrics
PROBE_TICKET_S: Final = 10.0  # outlives one probe with its time-out, and little more

HEALTHY: Final = "healthy"
DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"
_SEVERITY: Final = {HEALTHY: 0, DEGRADED: 1, UNHEALTHY: 2}

CRITICAL: Final = frozenset({"handshake", "broker", "store"})
"""A gateway's checks whose failure is `unhealthy`."""
ORDER: Final = ("handshake", "auth", "broker", "store", "agents")
ENGINES: Final = ("broker", "store")
"""Where causes are not shown, a time-out of these is `engine_hung`; their `ping` finds one that is down at once."""
READY_CHECKS: Final = ("broker", "store", "auth")
ONLY_ASKED: Final = frozenset({"agents"})
"""Checks that run only for a caller: an agent's may call a service that is billed by use or sleeps while none does."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check. `detail` is one sentence or empty, and safe to show to any client."""

    status: str
    latency_ms: float
    detail: str = ""


class CheckFailed(Exception):
    """A check failed; the message is one sentence, safe to show to any client."""


class Degraded(CheckFailed):
    """The checked part works, but with faults: `degraded`, for every check.

    Attributes:
        code: shown instead of the message where causes are not shown, because the message names one; empty: the
            message is safe everywhere.
    """

    def __init__(self, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.code = code


Check = Callable[[], Awaitable[str]]
"""Returns a detail (may be empty) when all is well. Raises `CheckFailed`, `DependencyError` or anything else."""


class _Slot:
    """One check with its last result and, while it runs, its task."""

    __slots__ = ("check", "done_at", "result", "task")

    def __init__(self, check: Check) -> None:
        self.check = check
        self.result: CheckResult | None = None
        self.done_at = 0.0
        self.task: asyncio.Task[CheckResult] | None = None


class Health:
    """Owns the checks and their tasks; `start` is optional, `stop` ends them.

    Args:
        checks: by name; `ORDER` has those of docs/design.md#health.
        version: of the program.
        policy: the environment's row.
        config: the member `config`: `max_connections_per_user, heartbeat_interval, …`;
            `pre_connection_auth_required` is added.
        show_causes: whether details name causes (hosts, library errors); in production they are codes only.
        critical: names of the checks whose failure is `unhealthy`; that of the others is `degraded`.
        numbers: the member `metrics`.
        state: of the lifecycle: `starting`, `ready`, `draining` or `stopped`.
        fault: why it is not ready: the part that cannot start yet, and its error.
        meter: takes every result (`narthex_health_status`).
        on_change: takes (name, result, cause) when a check's status changes, for the log.
        timeout_s: of one check.
        cache_s: how long a result is used.
        unasked_s: the age at which a result that no caller asks for is made anew, between `start` and `stop`;
            `ONLY_ASKED` are not.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        version: str,
        policy: EnvironmentPolicy,
        config: Mapping[str, object],
        show_causes: bool = True,
        critical: frozenset[str] = CRITICAL,
        numbers: Callable[[], Mapping[str, object]],
        state: Callable[[], str],
        fault: Callable[[], tuple[str, Exception] | None] = lambda: None,
        meter: Meter,
        on_change: Callable[[str, CheckResult, BaseException | None], None],
        timeout_s: float = CHECK_TIMEOUT_S,
        cache_s: float = CACHE_S,
        unasked_s: float = UNASKED_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._slots = {name: _Slot(check) for name, check in checks.items()}
        self._version = version
        self._policy = policy
        self._config = config
        self._show_causes = show_causes
        self._critical = critical
        self._numbers = numbers
        self._state = state
        self._fault = fault
        self._meter = meter
        self._on_change = on_change
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._clock = clock
        self._unasked_s = unasked_s
        self._unasked = BackgroundTask(self._refresh, "health")

    @property
    def names(self) -> Collection[str]:
        """The checks that this process has."""
        return self._slots.keys()

    async def start(self) -> None:
        """Begin to make results anew that no caller asks for: where no prober and no status page does, metrics and the
        dashboard would show the last answer to a request for ever. `ONLY_ASKED` are left out.
        """
        await self._unasked.start()

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        slots = {name: slot for name, slot in self._slots.items() if name not in ONLY_ASKED}
        while True:
            oldest = min((max(slot.done_at, began) for slot in slots.values()), default=loop.time())
            # The least pause: while the state is not `ready` every result stays due.
            await asyncio.sleep(max(oldest + self._unasked_s - loop.time(), self._unasked_s / 15))
            if self._state() == "ready":
                since = loop.time() - self._unasked_s
                due = [name for name, slot in slots.items() if slot.done_at <= since]
                await asyncio.gather(*(self.result(name) for name in due), return_exceptions=True)

    async def stop(self) -> None:
        """End the running checks."""
        await self._unasked.stop()
        running = [slot.task for slot in self._slots.values() if slot.task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=self._timeout_s)

    async def result(self, name: str, *, fresh: bool = False) -> CheckResult:
        """A check's result, at most `cache_s` old, or made now (`fresh`). Concurrent callers share one run of it."""
        slot = self._slots[name]
        loop = asyncio.get_running_loop()
        if not fresh and slot.result is not None and loop.time() - slot.done_at < self._cache_s:
            return slot.result
        if slot.task is None:
            slot.task = loop.create_task(self._run(name, slot), name=f"health-{name}")
        # Shielded: a caller that goes away must not end the check for the others.
        return await asyncio.shield(slot.task)

    async def _run(self, name: str, slot: _Slot) -> CheckResult:
        loop = asyncio.get_running_loop()
        began = loop.time()
        cause: BaseException | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                status, detail = HEALTHY, await slot.check()
        except Exception as fault:  # noqa: BLE001,RUF100 - whatever a check raises is its result
            cause = fault
            status, detail = self._evaluate(name, fault)
        finally:
            slot.task = None
        result = CheckResult(status=status, latency_ms=round((loop.time() - began) * 1000, 2), detail=detail)
        if self._state() != "ready":  # a drain that began meanwhile refuses the check itself
            return result
        if slot.result is None or slot.result.status != status:
            self._on_change(name, result, cause)
        self._meter.gauge("health_status", _SEVERITY[status], check=name)
        slot.result, slot.done_at = result, loop.time()
        return result

    def _evaluate(self, name: str, fault: Exception) -> tuple[str, str]:
        """Status and detail of a failed check."""
        status = UNHEALTHY if name in self._critical and not isinstance(fault, Degraded) else DEGRADED
        if isinstance(fault, CheckFailed):
            code = fault.code if isinstance(fault, Degraded) else ""
            return status, str(fault) if self._show_causes or not code else code
        if isinstance(fault, TimeoutError):
            hung = name in ENGINES and not self._show_causes
            return status, ENGINE_HUNG if hung else f"no answer within {self._timeout_s:g} s"
        if isinstance(fault, DependencyError) and fault.sign and not self._show_causes:
            return status, fault.sign
        if isinstance(fault, NarthexError):
            return status, fault.message if self._show_causes else fault.code
        return status, type(fault).__name__ if self._show_causes else "internal"

    async def ready(self) -> list[str]:
        """The reasons why this process must get no traffic; empty: it is ready."""
        state = self._state()
        if state != "ready":
            return [state]
        names = [name for name in READY_CHECKS if name in self._slots]
        results = await asyncio.gather(*(self.result(name) for name in names))
        return [name for name, result in zip(names, results, strict=True) if result.status == UNHEALTHY]

    async def report(self, *, fresh: bool = False) -> dict[str, object]:
        """The body of `/ws/health` (docs/design.md#health); `fresh`: see `result`, for a caller that asks seldom."""
        policy = self._policy
        checks: dict[str, CheckResult] = {}
        errors: list[str] = []
        if self._state() == "ready":
            names = sorted(self._slots, key=_rank)
            results = await asyncio.gather(*(self.result(name, fresh=fresh) for name in names))
            checks = dict(zip(names, results, strict=True))
        state = self._state()
        if state == "ready":
            errors = [f"{name}: {r.detail or r.status}" for name, r in checks.items() if r.status != HEALTHY]
            status = max((r.status for r in checks.values()), key=_SEVERITY.__getitem__, default=UNHEALTHY)
        else:
            status, errors = UNHEALTHY, [f"the gateway is {state}"]
            if (fault := self._fault()) is not None:
                errors.append(f"{fault[0]}: {self._evaluate(fault[0], fault[1])[1]}")
        return {
            "status": status,
            "service": "narthex",
            "version": self._version,
            "timestamp": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds"),
            "environment": policy.environment.value,
            "config": {
                "pre_connection_auth_required": policy.pre_connection_auth_required,
                **self._config,
            },
            "e2e_testing": policy.e2e_testing(),
            "checks": {name: msgspec.to_builtins(result) for name, result in checks.items()},
            "metrics": dict(self._numbers()),
            "errors": errors,
        }


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def ping_check(ping: Callable[[], Awaitable[None]], detail: Callable[[], str] = str) -> Check:
    """A broker's or store's round trip; `detail` returns the text for success."""

    async def check() -> str:
        await ping()
        return detail()

    return check


def auth_check(verifier: TokenVerifier) -> Check:
    """Check that the verifier's keys are present and usable."""

    async def check() -> str:
        status = await verifier.check()
        if status.status != HEALTHY:
            raise Degraded(status.detail, "auth_unavailable")  # the detail names issuers and library errors
        return status.detail

    return check


def agents_check(agents: Iterable[Agent], missing: Callable[[], Sequence[str]] = lambda: ()) -> Check:
    """Run every agent's own check; an agent without one needs nothing outside and is healthy. `missing`: agents whose
    runs wait, and that no node has.
    """
    found = list(agents)

    async def ask(agent: Agent) -> str | None:
        if agent.check is None:
            return None
        try:
            await agent.check()
        except DependencyError as fault:
            return f"{agent.name} ({fault.code})"
        return None

    async def check() -> str:
        if not found:
            raise Degraded("no agent is configured")
        failed = [answer for answer in await asyncio.gather(*map(ask, found)) if answer]
        if failed:
            raise Degraded("not available: " + ", ".join(failed))
        if absent := missing():
            raise Degraded(f"runs wait for {', '.join(absent)}, which no node runs")
        return ", ".join(agent.name for agent in found)

    return check


async def issue_probe_ticket(credentials: Credentials, ticket: str, now: float) -> None:
    """Store `ticket` as one of class `probe`: connect and echo only, outside the users' limits and metrics.

    Args:
        credentials: the store's.
        ticket: random, at least 128 bits.
        now: seconds since the epoch.
    """
    identity = Identity(
        subject="probe", tenant=PROBE_TENANT, identity_class=IdentityClass.PROBE, issuer="narthex"
    )
    kept = msgspec.json.encode(identity).decode()
    await credentials.put_ticket(fingerprint(ticket), kept, now + PROBE_TICKET_S)
