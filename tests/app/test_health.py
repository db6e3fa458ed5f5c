"""Health: the rules of the design, single flight, caching, time-outs, and the exact shape of its report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.health import (
    Check,
    CheckFailed,
    CheckResult,
    Degraded,
    Health,
    agents_check,
    auth_check,
    issue_probe_ticket,
    ping_check,
)
from narthex.domain.environment import EnvironmentPolicy, decide
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.secrets import fingerprint
from narthex.errors import DISK_FULL, ENGINE_HUNG, DependencyError
from narthex.ports.agents import Agent, Event, RunInput
from narthex.ports.tokens import VerifierStatus
from tests.timing import within


class Probe:
    """A check that answers as configured and counts its calls."""

    def __init__(self) -> None:
        self.asked = 0
        self.fault: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def __call__(self) -> str:
        """Answer."""
        self.asked += 1
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return "fine"


class Bench:
    """A Health over five probes."""

    def __init__(self, environ: dict[str, str] | None = None, keys: tuple[str, ...] = ()) -> None:
        self.probes = {name: Probe() for name in ("agents", "store", "auth", "handshake", "broker")}
        self.state = "ready"
        self.changes: list[tuple[str, str]] = []
        self.meter = PrometheusMeter()
        policy = decide(environ or {}, keys=keys)
        assert isinstance(policy, EnvironmentPolicy)
        self.policy = policy
        self.health = self.make()

    def make(
        self,
        *,
        cache_s: float = 0.0,
        timeout_s: float | None = None,
        show_causes: bool = True,
        unasked_s: float = 60.0,
    ) -> Health:
        """Another one over the same probes."""
        checks: dict[str, Check] = dict(self.probes)
        return Health(
            checks,
            version="1.2.3",
            policy=self.policy,
            config={"max_connections_per_user": 10, "heartbeat_interval": 25.0},
            show_causes=show_causes,
            numbers=self.meter.numbers,
            state=lambda: self.state,
            meter=self.meter,
            on_change=self.changed,
            timeout_s=within(2) if timeout_s is None else timeout_s,
            cache_s=cache_s,
            unasked_s=unasked_s,
            clock=lambda: 1_796_000_000.25,
        )

    def changed(self, name: str, result: CheckResult, cause: BaseException | None) -> None:
        """Note a change."""
        del cause
        self.changes.append((name, result.status))

    async def status(self) -> str:
        """The status of a new report."""
        return str((await self.health.report())["status"])


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("handshake", "unhealthy"),
        ("broker", "unhealthy"),
        ("store", "unhealthy"),
        ("auth", "degraded"),
        ("agents", "degraded"),
    ],
)
@pytest.mark.parametrize(
    "fault", [CheckFailed("no"), DependencyError("x", "away", "start it"), OSError("reset"), TimeoutError()]
)
async def test_what_a_failing_check_means(name: str, status: str, fault: Exception) -> None:
    """docs/design.md#health, whatever the check failed with."""
    bench = Bench()
    assert await bench.status() == "healthy"
    bench.probes[name].fault = fault
    assert await bench.status() == status
    bench.probes[name].fault = None
    assert await bench.status() == "healthy"
    assert bench.changes[5:] == [(name, status), (name, "healthy")]


async def test_the_worst_check_decides() -> None:
    """Degraded and unhealthy together are unhealthy."""
    bench = Bench()
    bench.probes["agents"].fault = CheckFailed("no")
    bench.probes["store"].fault = CheckFailed("no")
    assert await bench.status() == "unhealthy"


async def test_a_check_may_say_that_it_works_badly() -> None:
    """`Degraded` of a critical check is degraded."""
    bench = Bench()
    bench.probes["broker"].fault = Degraded("slow")
    assert await bench.status() == "degraded"


async def test_a_degraded_check_names_its_cause_only_where_causes_are_shown() -> None:
    """With a code the code replaces the cause in production; a text without a cause is shown."""
    bench = Bench()
    bench.probes["broker"].fault = Degraded("https://issuer.test is slow", "auth_unavailable")
    bench.probes["agents"].fault = Degraded("no agent is configured")
    for show_causes, cause in ((False, "auth_unavailable"), (True, "https://issuer.test is slow")):
        report = await bench.make(show_causes=show_causes).report()
        assert report["errors"] == [f"broker: {cause}", "agents: no agent is configured"]


async def test_no_answer_in_time_is_a_failure() -> None:
    """Never healthy without an answer; the check is cancelled."""
    bench = Bench()
    bench.probes["store"].gate = asyncio.Event()
    bench.health = bench.make(timeout_s=0.05)
    report = await bench.health.report()
    assert report["status"] == "unhealthy"
    assert report["errors"] == ["store: no answer within 0.05 s"]


@pytest.mark.parametrize("name", ["broker", "store"])
async def test_a_full_disk_and_a_hung_engine_have_fixed_codes(name: str) -> None:
    """In production only the code is shown; elsewhere the cause. A mere outage keeps its code."""
    bench = Bench()
    full = DependencyError(name, "log.db failed with SQLITE_FULL.", "Free disk space.", sign=DISK_FULL)
    away = DependencyError(name, "Cannot reach it at 10.0.0.1.")
    for fault, code, cause in (
        (full, "disk_full", full.message),
        (
            DependencyError(name, "No answer within 5 s.", sign=ENGINE_HUNG),
            "engine_hung",
            "No answer within 5 s.",
        ),
        (TimeoutError(), "engine_hung", f"no answer within {within(2):g} s"),
        (away, f"{name}_unavailable", away.message),
    ):
        bench.probes[name].fault = fault
        for show_causes, said in ((False, code), (True, cause)):
            bench.health = bench.make(show_causes=show_causes)
            assert (await bench.health.report())["errors"] == [f"{name}: {said}"]


async def test_a_check_that_is_no_engines_is_no_hung_engine() -> None:
    """In production its time-out is shown unchanged too: the text has no cause."""
    bench = Bench()
    bench.probes["agents"].fault = TimeoutError()
    report = await bench.make(show_causes=False).report()
    assert report["errors"] == [f"agents: no answer within {within(2):g} s"]


async def test_many_who_ask_share_one_round() -> None:
    """Single flight: a flood of health requests costs one round of checks."""
    bench = Bench()
    gate = asyncio.Event()
    for probe in bench.probes.values():
        probe.gate = gate
    reports = [asyncio.ensure_future(bench.health.report()) for _ in range(50)]
    for probe in bench.probes.values():
        await probe.begun.wait()
    gate.set()
    assert {str(report["status"]) for report in await asyncio.gather(*reports)} == {"healthy"}
    assert [probe.asked for probe in bench.probes.values()] == [1] * 5


async def test_results_are_cached() -> None:
    """For the time in the design."""
    bench = Bench()
    bench.health = bench.make(cache_s=within(60))
    await bench.health.report()
    bench.probes["store"].fault = CheckFailed("no")
    assert await bench.status() == "healthy"
    assert bench.probes["store"].asked == 1
    assert (await bench.health.report(fresh=True))["status"] == "unhealthy", (
        "it was asked for a check made now"
    )
    assert bench.probes["store"].asked == 2


async def test_who_goes_away_does_not_end_the_check_for_others() -> None:
    """A client that hangs up must not make the gateway look unhealthy."""
    bench = Bench()
    gate = bench.probes["store"].gate = asyncio.Event()
    first = asyncio.ensure_future(bench.health.result("store"))
    second = asyncio.ensure_future(bench.health.result("store"))
    await bench.probes["store"].begun.wait()
    first.cancel()
    gate.set()
    assert (await second).status == "healthy"


async def test_stop_ends_the_checks_that_run() -> None:
    """No task is left behind."""
    bench = Bench()
    bench.probes["store"].gate = asyncio.Event()
    waiting = asyncio.ensure_future(bench.health.result("store"))
    await bench.probes["store"].begun.wait()
    await bench.health.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("health")] == []


@pytest.mark.parametrize("state", ["starting", "draining", "stopped"])
async def test_outside_ready_nothing_is_asked_and_the_answer_is_unhealthy(state: str) -> None:
    """A load balancer must see it at once."""
    bench = Bench()
    bench.state = state
    report = await bench.health.report()
    assert (report["status"], report["errors"]) == ("unhealthy", [f"the gateway is {state}"])
    assert await bench.health.ready() == [state]
    assert all(probe.asked == 0 for probe in bench.probes.values())


@pytest.mark.parametrize("state", ["draining", "stopped"])
async def test_a_check_that_the_drain_overtakes_is_no_fault(state: str) -> None:
    """The gateway refuses its own probe then, which neither the log nor a metric shows as a fault."""
    bench = Bench()
    assert await bench.status() == "healthy"
    bench.changes.clear()
    handshake = bench.probes["handshake"]
    handshake.gate = asyncio.Event()
    handshake.begun.clear()
    waiting = asyncio.ensure_future(bench.health.report())
    await handshake.begun.wait()
    bench.state = state
    handshake.fault = CheckFailed("a valid ticket was refused: draining")
    handshake.gate.set()
    report = await waiting
    assert (report["status"], report["errors"]) == ("unhealthy", [f"the gateway is {state}"])
    assert bench.changes == []
    assert b'narthex_health_status{check="handshake"} 0.0' in bench.meter.scraped("")[0]()


async def test_ready_asks_broker_store_and_keys_only() -> None:
    """An agent's unavailable provider must not take the gateway out of rotation; nor must degraded keys."""
    bench = Bench()
    for name in ("handshake", "agents", "auth"):
        bench.probes[name].fault = CheckFailed("no")
    assert await bench.health.ready() == []
    assert bench.probes["handshake"].asked == 0
    bench.probes["store"].fault = CheckFailed("no")
    assert await bench.health.ready() == ["store"]


async def test_details_name_no_cause_where_strangers_read_them() -> None:
    """In staging and production hosts and library errors go to the log only."""
    bench = Bench()
    bench.probes["broker"].fault = DependencyError("broker", "nats://10.0.0.7 refused", "Start it.")
    bench.probes["store"].fault = OSError("/var/lib/narthex is read-only")
    report = await bench.make(show_causes=False).report()
    assert report["errors"] == ["broker: broker_unavailable", "store: internal"]
    report = await bench.make(show_causes=True).report()
    assert report["errors"] == ["broker: nats://10.0.0.7 refused", "store: OSError"]


async def test_the_report_has_the_shape_of_the_design() -> None:
    """The published sample: staging, detected by variable and key; every member with that value."""
    environ = {
        "ENVIRONMENT": "staging",
        "E2E_TEST_ENV": "staging",
        "E2E_OAUTH_SIMULATION_KEY": "test-key",
    }
    bench = Bench(environ, keys=("test-key",))
    bench.meter.connections("user", 1)
    report = msgspec.json.decode(msgspec.json.encode(await bench.health.report()))
    for check in report["checks"].values():
        assert check.pop("latency_ms") >= 0
    assert report == {
        "status": "healthy",
        "service": "narthex",
        "version": "1.2.3",
        "timestamp": "2026-11-30T00:53:20.250+00:00",
        "environment": "staging",
        "config": {
            "pre_connection_auth_required": False,
            "max_connections_per_user": 10,
            "heartbeat_interval": 25.0,
        },
        "e2e_testing": {
            "enabled": True,
            "variables": {"E2E_OAUTH_SIMULATION_KEY": "SET", "E2E_TEST_ENV": "staging"},
            "auth_bypass_active": True,
        },
        "checks": {
            name: {"status": "healthy", "detail": "fine"}
            for name in ("handshake", "auth", "broker", "store", "agents")
        },
        "metrics": {
            "websocket": {"active_connections": 1, "active_user": 1, "active_guest": 0, "active_e2e": 0},
            "authentication": {"handshakes": 0, "admitted": 0, "not_admitted": 0},
        },
        "errors": [],
    }
    assert list(report["checks"]) == ["handshake", "auth", "broker", "store", "agents"]


async def test_production_shows_no_variables() -> None:
    """Not even that none is set."""
    report = await Bench({"ENVIRONMENT": "production"}).health.report()
    assert report["e2e_testing"] == {"enabled": False, "variables": {}, "auth_bypass_active": False}


async def test_the_metric_follows() -> None:
    """`narthex_health_status` by check."""
    bench = Bench()
    bench.probes["broker"].fault = CheckFailed("no")
    await bench.health.report()
    text = bench.meter.render().decode()
    assert 'narthex_health_status{check="broker"} 2.0' in text
    assert 'narthex_health_status{check="store"} 0.0' in text


async def test_the_metric_follows_where_no_caller_asks() -> None:
    """Without a prober and a status page it would show the last answer to a request for ever."""
    bench = Bench()
    health = bench.make(unasked_s=0.01)
    broker = bench.probes["broker"]
    await health.report()
    await health.start()
    try:
        broker.fault = CheckFailed("no")
        async with asyncio.timeout(within(10)):
            line = 'narthex_health_status{check="broker"} 2.0'
            while line not in bench.meter.render().decode():  # noqa: ASYNC110 - metrics have no events
                await asyncio.sleep(0.01)
        assert ("broker", "unhealthy") in bench.changes
    finally:
        await health.stop()


async def test_no_agent_is_called_unasked() -> None:
    """Its service may be billed by use, or sleep while none calls it. Two rounds of the others show the omission."""
    bench = Bench()
    health = bench.make(unasked_s=0.01)
    await health.start()
    try:
        async with asyncio.timeout(within(10)):
            while bench.probes["store"].asked < 2:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0.01)
    finally:
        await health.stop()
    assert bench.probes["agents"].asked == 0


async def test_each_result_is_made_anew_when_it_falls_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 15 s, and no earlier because a caller asked meanwhile; while the process is not ready, nothing runs and the
    task still pauses.
    """

    class EnoughError(Exception):
        pass

    now = 1_000.0
    bench = Bench()
    health = bench.make(unasked_s=15.0)
    pauses: list[float] = []
    ran: list[set[str]] = []

    async def slept(pause_s: float) -> None:
        nonlocal now
        ran.append({name for name, probe in bench.probes.items() if probe.asked})
        for probe in bench.probes.values():
            probe.asked = 0
        pauses.append(pause_s)
        match len(pauses):
            case 2:  # a caller asks for one
                now += 5
                await health.result("store", fresh=True)
                bench.probes["store"].asked = 0
                pause_s -= 5
            case 4:
                bench.state = "draining"
            case 5:
                bench.state = "ready"
            case 6:
                raise EnoughError
        now += pause_s

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", slept)
    with pytest.raises(EnoughError):
        await health._refresh()
    others = {"handshake", "auth", "broker"}
    assert pauses == [15, 15, 5, 10, 1, 4]
    assert ran == [set(), {*others, "store"}, others, {"store"}, set(), others]


# -- the checks of ports ---------------------------------------------------------------------------------------


class Verifier:
    """Reports the status of its keys."""

    def __init__(self, status: str) -> None:
        self.status = status

    def verify(self, token: str, *, now: float, traffic: str) -> object:
        """Not called here."""
        raise NotImplementedError

    async def check(self) -> VerifierStatus:
        """Answer."""
        return VerifierStatus(status=self.status, detail=f"keys are {self.status}")

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


async def test_auth_is_healthy_or_degraded_as_its_keys_are() -> None:
    """With the verifier's text."""
    assert await auth_check(Verifier("healthy"))() == "keys are healthy"  # type: ignore[arg-type] # verify is unused
    with pytest.raises(Degraded, match="keys are degraded"):
        await auth_check(Verifier("degraded"))()  # type: ignore[arg-type] # verify is unused


async def test_a_round_trip_that_fails_is_the_checks_failure() -> None:
    """The port's error is passed on."""

    async def away() -> None:
        raise DependencyError("store", "away", "start it")

    with pytest.raises(DependencyError):
        await ping_check(away)()


def agent(name: str, check: Callable[[], Awaitable[None]] | None = None) -> Agent:
    """An agent of this name."""

    async def function(run: RunInput) -> AsyncIterator[Event | str]:
        yield run.run_id

    return Agent(name=name, function=function, check=check)


async def test_agents_that_depend_on_something_are_asked() -> None:
    """An unavailable one is named, with the code only."""

    async def away() -> None:
        raise DependencyError("agents", "https://llm.internal refused", "Start it.")

    async def here() -> None:
        return None

    assert await agents_check([agent("a"), agent("b", here)])() == "a, b"
    with pytest.raises(Degraded, match=r"^not available: c \(agents_unavailable\)$"):
        await agents_check([agent("a"), agent("c", away)])()
    with pytest.raises(Degraded, match="runs wait for b, c, which no node runs"):
        await agents_check([agent("a")], lambda: ["b", "c"])()
    with pytest.raises(Degraded, match="no agent"):
        await agents_check([])()


class Tickets:
    """Keeps tickets."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, float]] = {}

    async def put_ticket(self, ticket_hash: str, identity: str, expires_at: float) -> None:
        """Keep one."""
        self.kept[ticket_hash] = (identity, expires_at)


async def test_the_probes_ticket_is_of_its_own_class_and_short() -> None:
    """It is stored hashed, belongs to no user, and outlives only one probe."""
    tickets = Tickets()
    await issue_probe_ticket(tickets, "the-ticket", 100.0)  # type: ignore[arg-type] # only this method is used
    ((identity, expires_at),) = tickets.kept.values()
    assert list(tickets.kept) == [fingerprint("the-ticket")]
    decoded = msgspec.json.decode(identity, type=Identity)
    assert (decoded.tenant, decoded.identity_class) == ("probe", IdentityClass.PROBE)
    assert 100 < expires_at <= 130
